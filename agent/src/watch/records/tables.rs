//! What lies in the tables, one statement or a few a function; each runs in a transaction of its caller's.

use super::{EVENTS_MAX, GONE_KEPT, LookNote, Note, Seen, Sight, cut, phase_word, signed};
use crate::{
    config::{Subject, Word},
    output::rfc3339,
};
use cairn_hypervisor::{events::Stop, metadata::BackupWord, phase::Phase};
use rusqlite::{Connection, Result, params};
use serde_json::{Value, json};

/// Stores what a domain does now; one that is new is made.
pub fn put_phase(db: &Connection, uuid: &str, name: &str, sight: &Sight) -> Result<()> {
    let (phase, reason) = phase_word(sight.phase);
    let running = matches!(sight.phase, Phase::Running(_));
    let sql = "INSERT INTO domains (uuid, name, running, phase, reason, stamp_ns, boot, since_unix_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
        ON CONFLICT (uuid) DO UPDATE SET name = ?2, running = ?3, phase = ?4, reason = ?5, stamp_ns = ?6, boot = ?7, since_unix_ms = ?8";
    db.prepare_cached(sql)?.execute(params![uuid, name, running, phase, reason, signed(sight.stamp_ns), sight.boot, signed(sight.at_unix_ms)]).map(drop)
}

/// The first suspicion stays until a point ends it: since then the increments have something to prove.
pub fn suspect(db: &Connection, uuid: &str, why: &str, at_unix_ms: u64, source: &'static str) -> Result<()> {
    let sql = "UPDATE domains SET suspicion = ?2, suspicion_unix_ms = ?3 WHERE uuid = ?1 AND suspicion IS NULL";
    db.prepare_cached(sql)?.execute(params![uuid, cut(why), signed(at_unix_ms)])?;
    note(db, uuid, at_unix_ms, &Note { source, what: "suspect", detail: why })
}

/// Adds a line, and takes the oldest away where there are too many.
pub fn note(db: &Connection, uuid: &str, at_unix_ms: u64, note: &Note<'_>) -> Result<()> {
    let sql = "INSERT INTO events (uuid, at_unix_ms, source, what, detail) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(sql)?.execute(params![uuid, signed(at_unix_ms), note.source, cut(note.what), cut(note.detail)])?;
    let sql = "DELETE FROM events WHERE uuid = ?1 AND id <= (SELECT id FROM events WHERE uuid = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    db.prepare_cached(sql)?.execute(params![uuid, EVENTS_MAX]).map(drop)
}

/// What a look found out.
pub fn looked(db: &Connection, uuid: &str, look: &LookNote) -> Result<()> {
    let at = signed(look.at_unix_ms);
    let sql = "UPDATE domains SET looked_unix_ms = ?2, outcome = ?3, frozen = ?4 WHERE uuid = ?1";
    db.prepare_cached(sql)?.execute(params![uuid, at, cut(&look.outcome), look.frozen])?;
    if let Some(disks) = &look.disks {
        db.prepare_cached("UPDATE domains SET disks = ?2 WHERE uuid = ?1")?.execute(params![uuid, disks.to_string()])?;
    }
    if let Some(word) = &look.word {
        db.prepare_cached("UPDATE domains SET word = ?2 WHERE uuid = ?1")?.execute(params![uuid, word_json(word).to_string()])?;
    }
    // What was found stays until something else is: most looks find nothing, and would hide it.
    if let Some(found) = look.findings.as_array().filter(|found| !found.is_empty()) {
        db.prepare_cached("UPDATE domains SET findings = ?2, found_unix_ms = ?3 WHERE uuid = ?1")?.execute(params![uuid, look.findings.to_string(), at])?;
        for one in found {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            note(db, uuid, look.at_unix_ms, &Note { source: "look", what: &text("kind"), detail: &format!("{}: {}", text("outcome"), text("name")) })?;
        }
    }
    for (store, point, time_unix_ms) in &look.points {
        let sql = "INSERT INTO points (uuid, store, point, time_unix_ms) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (uuid, store) DO UPDATE SET point = ?3, time_unix_ms = ?4";
        db.prepare_cached(sql)?.execute(params![uuid, store, point, signed(*time_unix_ms)])?;
    }
    let sql = "UPDATE domains SET suspicion = NULL, suspicion_unix_ms = NULL
        WHERE uuid = ?1 AND suspicion_unix_ms < (SELECT max(time_unix_ms) FROM points WHERE uuid = ?1)";
    if db.prepare_cached(sql)?.execute([uuid])? > 0 {
        note(db, uuid, look.at_unix_ms, &Note { source: "look", what: "trusted", detail: "a point was made since" })?;
    }
    Ok(())
}

/// What is not among these is gone; what was gone for long is forgotten.
pub fn only_these(db: &Connection, uuids: &[String], now_unix_ms: u64, stamp_ns: u64) -> Result<()> {
    let known: Vec<String> = {
        // One that was seen after the list was made is not on it.
        let mut select = db.prepare_cached("SELECT uuid FROM domains WHERE phase != 'gone' AND stamp_ns <= ?1")?;
        select.query_map([signed(stamp_ns)], |r| r.get(0))?.collect::<Result<_>>()?
    };
    for uuid in known.iter().filter(|uuid| !uuids.contains(uuid)) {
        gone(db, uuid, now_unix_ms)?;
    }
    let oldest = now_unix_ms.saturating_sub(u64::try_from(GONE_KEPT.as_millis()).unwrap_or(u64::MAX));
    let old: Vec<String> = {
        let mut select = db.prepare_cached("SELECT uuid FROM domains WHERE phase = 'gone' AND since_unix_ms < ?1")?;
        select.query_map([signed(oldest)], |r| r.get(0))?.collect::<Result<_>>()?
    };
    for uuid in old {
        for table in ["domains", "events", "points", "wishes"] {
            db.execute(&format!("DELETE FROM {table} WHERE uuid = ?1"), [&uuid])?;
        }
    }
    // Events of domains that nobody has a record of.
    db.execute("DELETE FROM events WHERE uuid NOT IN (SELECT uuid FROM domains)", []).map(drop)
}

/// libvirt does not know this one any more; its history stays for a while.
pub fn gone(db: &Connection, uuid: &str, now_unix_ms: u64) -> Result<()> {
    let sql = "UPDATE domains SET phase = 'gone', running = 0, since_unix_ms = ?2 WHERE uuid = ?1 AND phase != 'gone'";
    if db.prepare_cached(sql)?.execute(params![uuid, signed(now_unix_ms)])? > 0 {
        note(db, uuid, now_unix_ms, &Note { source: "look", what: "gone", detail: "libvirt does not know it any more" })?;
    }
    Ok(())
}

/// All domains as the API has them.
pub fn shown(db: &Connection) -> Result<Value> {
    let sql =
        "SELECT uuid, name, phase, reason, since_unix_ms, suspicion, suspicion_unix_ms, frozen, disks, looked_unix_ms, outcome, findings, found_unix_ms, word
        FROM domains ORDER BY name, uuid";
    let mut select = db.prepare_cached(sql)?;
    let mut rows = select.query([])?;
    let mut out = Vec::new();
    while let Some(r) = rows.next()? {
        let uuid: String = r.get(0)?;
        let json_at = |i: usize| -> Result<Value> { Ok(serde_json::from_str(&r.get::<_, String>(i)?).unwrap_or_else(|_| json!([]))) };
        let since = time(r.get(6)?);
        let suspicion = r.get::<_, Option<String>>(5)?.map(|why| json!({"why": why, "since": since}));
        out.push(json!({
            "uuid": uuid, "name": r.get::<_, String>(1)?, "state": r.get::<_, String>(2)?, "reason": r.get::<_, String>(3)?, "since": time(r.get(4)?),
            "suspicion": suspicion, "frozen": r.get::<_, bool>(7)?, "disks": json_at(8)?,
            "looked": time(r.get(9)?), "outcome": r.get::<_, Option<String>>(10)?, "found": json_at(11)?, "found_at": time(r.get(12)?), "metadata": json_at(13)?,
            "points": points(db, &uuid)?, "events": events(db, &uuid)?,
        }));
    }
    Ok(out.into())
}

fn word_json(word: &BackupWord) -> Value {
    json!({"policies": word.policies, "tags": word.tags, "excluded": word.excluded, "disks_excluded": word.disks_excluded})
}

/// All domains that libvirt has, as policies select them.
pub fn seen(db: &Connection) -> Result<Vec<Seen>> {
    let mut select = db.prepare_cached("SELECT uuid, name, running, reason, word FROM domains WHERE phase != 'gone' ORDER BY name, uuid")?;
    let mut rows = select.query([])?;
    let mut out = Vec::new();
    while let Some(r) = rows.next()? {
        let (uuid, running): (String, bool) = (r.get(0)?, r.get(2)?);
        let word: Value = serde_json::from_str(&r.get::<_, String>(4)?).unwrap_or_default();
        let is_known = word["policies"].is_array();
        let names = |key: &str| word[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        let word = Word { policies: names("policies"), tags: names("tags"), excluded: word["excluded"] == true };
        let is_away = !running && r.get::<_, String>(3)? == Stop::Migrated.word();
        let mut latest = db.prepare_cached("SELECT store, point FROM points WHERE uuid = ?1")?;
        let points = latest.query_map([&uuid], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<Result<_>>()?;
        out.push(Seen { uuid, subject: Subject { name: r.get(1)?, running: Some(running), word }, is_known, is_away, points });
    }
    Ok(out)
}

fn points(db: &Connection, uuid: &str) -> Result<Value> {
    let mut select = db.prepare_cached("SELECT store, point, time_unix_ms FROM points WHERE uuid = ?1 ORDER BY store")?;
    let row = |r: &rusqlite::Row<'_>| Ok(json!({"store": r.get::<_, String>(0)?, "id": r.get::<_, String>(1)?, "time": time(r.get(2)?)}));
    Ok(select.query_map([uuid], row)?.collect::<Result<Vec<_>>>()?.into())
}

fn events(db: &Connection, uuid: &str) -> Result<Value> {
    let mut select = db.prepare_cached("SELECT at_unix_ms, source, what, detail FROM events WHERE uuid = ?1 ORDER BY id")?;
    let row = |r: &rusqlite::Row<'_>| {
        let text = |i: usize| r.get::<_, String>(i);
        Ok(json!({"time": time(r.get(0)?), "source": text(1)?, "what": text(2)?, "detail": text(3)?}))
    };
    Ok(select.query_map([uuid], row)?.collect::<Result<Vec<_>>>()?.into())
}

fn time(unix_ms: Option<i64>) -> Value {
    unix_ms.map_or(Value::Null, |ms| rfc3339(ms.unsigned_abs()))
}
