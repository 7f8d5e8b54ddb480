//! `cairn store info` for people and for scripts.

use super::{bytes, json::rfc3339, shown, table};
use cairn_store::{Growth, NameStatistics, Statistics, Store};
use serde_json::{Value, json};

fn growth_json(growth: &[Growth]) -> Value {
    growth.iter().map(|g| json!({"days": g.days, "points": g.points, "stored": g.stored_bytes, "per_day": g.per_day_bytes})).collect()
}

/// Sizes in bytes; ratios are null where nothing is stored.
pub fn store_json(store: &Store, s: &Statistics) -> Value {
    let (c, w) = (store.config(), &s.waste);
    let name = |n: &NameStatistics| {
        json!({
            "name": n.name, "points": n.points, "newest": rfc3339(n.newest_unix_ms), "size": n.size_bytes, "data": n.data_bytes,
            "unique": n.unique_bytes, "growth": growth_json(&n.growth),
        })
    };
    json!({
        "store": store.id().to_string(), "location": store.location(), "format": 1, "encrypted": c.encrypted, "profile": c.profile,
        "zstd_level": c.zstd_level, "created": rfc3339(c.created_unix_ms),
        "points": s.points, "names": s.names.iter().map(name).collect::<Vec<_>>(), "sessions": s.sessions, "size": s.size_bytes, "data": s.data_bytes,
        "chunks": {"count": s.chunks, "plain": s.chunk_plain_bytes, "stored": s.chunk_stored_bytes},
        "packs": {"data": s.data_packs, "metadata": s.meta_packs},
        "stored": {"total": s.stored_bytes(), "data": s.data_pack_bytes, "metadata": s.meta_pack_bytes, "metadata_copies": s.meta_copy_bytes},
        "ratio": {"deduplication": s.dedup_ratio(), "compression": s.compression_ratio(), "overall": s.overall_ratio()},
        "waste": {
            "unused_packs": w.unused_packs, "unused": w.unused_bytes, "thin_packs": w.thin_packs, "thin": w.thin_dead_bytes, "dead": w.dead_bytes,
            "unfinished_packs": w.unfinished_packs, "unfinished": w.unfinished_bytes, "trash_files": w.trash_files, "trash": w.trash_bytes,
        },
        "growth": growth_json(&s.growth), "damage": s.damage,
    })
}

fn ratio(r: Option<f64>) -> String {
    r.map_or_else(|| "-".into(), |r| format!("{r:.2}"))
}

fn growth(g: &Growth) -> String {
    format!("{} a day over {} days ({} in {} points)", bytes(g.per_day_bytes), g.days, bytes(g.stored_bytes), g.points)
}

/// The same for people.
pub fn store_text(store: &Store, s: &Statistics) -> String {
    let (c, w) = (store.config(), &s.waste);
    let mut out = format!("store {} in {}\n", store.id(), shown(&store.location()));
    let mut line = |k: &str, v: String| out.push_str(&format!("  {k:<13}{v}\n"));
    line("format", format!("1, {}, profile {}, zstd {}", if c.encrypted { "encrypted" } else { "NOT encrypted" }, shown(&c.profile), c.zstd_level));
    line("created", table::time(c.created_unix_ms));
    line("points", format!("{} of {} names, {} sessions", s.points, s.names.len(), s.sessions));
    line("disks", format!("{}, of which {} are not zero", bytes(s.size_bytes), bytes(s.data_bytes)));
    line("chunks", format!("{} in use, {}, stored as {}", s.chunks, bytes(s.chunk_plain_bytes), bytes(s.chunk_stored_bytes)));
    let (data, meta, copies) = (bytes(s.data_pack_bytes), bytes(s.meta_pack_bytes), bytes(s.meta_copy_bytes));
    line("stored", format!("{}: data {data}, metadata {meta}, its copies {copies}; {} packs", bytes(s.stored_bytes()), s.data_packs + s.meta_packs));
    line("ratios", format!("deduplication {}, compression {}, overall {}", ratio(s.dedup_ratio()), ratio(s.compression_ratio()), ratio(s.overall_ratio())));
    let unused = format!("{} in {} packs that nothing uses", bytes(w.unused_bytes), w.unused_packs);
    line("waste", format!("{unused}, {} in used ones ({} of them thin)", bytes(w.dead_bytes), w.thin_packs));
    if w.unfinished_packs > 0 {
        line("unfinished", format!("{} in {} packs of backups that have not ended", bytes(w.unfinished_bytes), w.unfinished_packs));
    }
    if w.trash_files > 0 {
        line("trash", format!("{} in {} files", bytes(w.trash_bytes), w.trash_files));
    }
    s.growth.iter().for_each(|g| line("growth", growth(g)));
    if !s.names.is_empty() {
        let week = |n: &NameStatistics| n.growth.first().map_or(0, |g| g.per_day_bytes);
        let mut t = table::table(&["NAME", "POINTS", "NEWEST", "SIZE", "DATA", "UNIQUE", "A DAY"], &[1, 3, 4, 5, 6]);
        for n in &s.names {
            t.add_row([
                shown(&n.name),
                n.points.to_string(),
                table::time(n.newest_unix_ms),
                bytes(n.size_bytes),
                bytes(n.data_bytes),
                bytes(n.unique_bytes),
                bytes(week(n)),
            ]);
        }
        out.push('\n');
        out.push_str(&table::trimmed(&t));
    }
    out.trim_end().to_owned()
}
