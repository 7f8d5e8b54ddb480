//! POINT on the command line: `NAME@latest`, `NAME@-1`, `NAME@2026-11-21T02:00`, `NAME@ID-PREFIX`, `NAME`, or an id prefix alone.

use crate::{
    failure::{Failure, Outcome},
    retention::{calendar_tags, times},
};
use cairn_store::{Point, Session, point::check_tag};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Digits of an id prefix that stands alone.
const BARE_PREFIX_DIGITS_MIN: usize = 8;
/// Digits that tables show: the id's first 48 bits are its time in milliseconds.
pub const SHOWN_ID_DIGITS: usize = 12;

/// For those who wrote something else.
const FORMS: &str = "a POINT is NAME@latest, NAME@-1, NAME@2026-11-21T02:00, NAME@ID-PREFIX, NAME or an id, see 'cairn list'";

/// Tags given at a backup lie in the point's summary, which has little room; more can be added to the point.
const FIRST_TAGS_BYTES_MAX: usize = 90;
/// What each tag takes besides its text.
const TAG_FIELD_BYTES: usize = 6;

/// Names of new points: not empty, of bounded length, without control characters. Checked before anything is read, since nothing could be committed
/// under another. A domain has whatever name libvirt lets it have, and is saved under it.
pub fn check_name(name: &str) -> Outcome<()> {
    const MAX: usize = cairn_store::format::limits::NAME_BYTES_MAX;
    if name.is_empty() || name.len() > MAX || name.chars().any(char::is_control) {
        return Err(Failure::usage(format!("'{}' cannot be a name: 1 to {MAX} bytes without control characters", name.escape_debug())));
    }
    Ok(())
}

/// Names that are chosen for new points are as they look, too: without characters that nobody sees or that turn the text around them. Points that have
/// such names stay usable.
pub fn check_chosen_name(name: &str) -> Outcome<()> {
    check_name(name)?;
    if let Some(c) = name.chars().find(|c| is_unseen(*c)) {
        return Err(Failure::usage(format!(
            "'{}' cannot be a name of new points: U+{:04X} in it is not to be seen, or turns the text around it, so that it looks like another name; give it one \
             without",
            shown_unseen(name),
            u32::from(c)
        )));
    }
    if name.trim() != name {
        return Err(Failure::usage(format!("'{name}' cannot be a name of new points: it begins or ends with a space, which nobody sees; give it one without")));
    }
    Ok(())
}

/// Format characters of Unicode (general category Cf), fillers and line separators: what stands in a text and is not seen in it.
fn is_unseen(c: char) -> bool {
    matches!(u32::from(c),
        0x00ad | 0x034f | 0x0600..=0x0605 | 0x061c | 0x06dd | 0x070f | 0x0890..=0x0891 | 0x08e2 | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180e
        | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfeff | 0xffa0 | 0xfff9..=0xfffb | 0x110bd | 0x110cd | 0x1_3430..=0x1_343f
        | 0x1_bca0..=0x1_bca3 | 0x1_d173..=0x1_d17a | 0xe_0000..=0xe_0fff)
}

fn shown_unseen(name: &str) -> String {
    name.chars().map(|c| if is_unseen(c) { format!("\\u{{{:x}}}", u32::from(c)) } else { c.to_string() }).collect()
}

/// Tags of a new point.
pub fn check_tags(tags: &[String]) -> Outcome<()> {
    tags.iter().try_for_each(|t| check_tag(t))?;
    if tags.iter().map(|t| t.len() + TAG_FIELD_BYTES).sum::<usize>() > FIRST_TAGS_BYTES_MAX {
        return Err(Failure::usage("these are too many tags for a new point; give some now and add the others with 'cairn tag'"));
    }
    Ok(())
}

/// The tags that were asked for, and those that the calendar gives.
pub fn with_calendar_tags(session: &Session, name: &str, time_unix_ms: u64, asked: &[String]) -> Vec<String> {
    let mut tags = asked.to_vec();
    tags.extend(calendar_tags(session.points(), name, time_unix_ms, &TimeZone::system()).into_iter().filter(|t| !asked.contains(t)));
    tags
}

/// What is said in a new point where newer ones of its name are there already.
pub fn clock_warning(session: &Session, name: &str, time_unix_ms: u64) -> Option<String> {
    let newest = session.points().iter().filter(|p| p.summary.name == name).map(|p| p.summary.time_unix_ms).max()?;
    let said = |ms: u64| crate::output::rfc3339(ms).as_str().unwrap_or_default().to_owned();
    (newest > time_unix_ms).then(|| {
        format!("this point is dated {}, before one of the same name of {}: this host's clock is behind, or was ahead then", said(time_unix_ms), said(newest))
    })
}

/// The point that a specification names.
pub fn select<'a>(points: &'a [Point], spec: &str) -> Outcome<&'a Point> {
    // A name may contain '@' itself; a whole name wins.
    if let Some(latest) = believed(of_name(points, spec)).last() {
        return Ok(latest);
    }
    match spec.rsplit_once('@') {
        Some(("", which)) => Err(Failure::usage(format!("'@{which}' does not say whose point: a name goes before the '@', as in web1@latest; {FORMS}"))),
        Some((name, "")) => Err(Failure::usage(format!("'{name}@' ends at the '@': {FORMS}"))),
        Some((name, which)) => of_domain(points, name, which),
        None if spec.is_empty() => Err(Failure::usage(format!("an empty POINT names nothing: {FORMS}"))),
        None if is_hex(spec) && spec.len() >= BARE_PREFIX_DIGITS_MIN => by_prefix(points.iter(), spec, spec),
        None => Err(Failure::not_found(format!("no restore point of '{spec}'; see 'cairn list'"))),
    }
}

/// Points of one name, oldest first.
pub fn of_name<'a>(points: &'a [Point], name: &str) -> Vec<&'a Point> {
    points.iter().filter(|p| p.summary.name == name).collect()
}

/// Points of one name in the order in which they were taken ([`times::taken`]). Warns of what is dated ahead and left out.
pub fn believed(mine: Vec<&Point>) -> Vec<&Point> {
    let now_unix_ms = crate::commands::now_unix_ms();
    times::warn_ahead(&mine, now_unix_ms);
    times::taken(mine, now_unix_ms)
}

fn of_domain<'a>(points: &'a [Point], name: &str, which: &str) -> Outcome<&'a Point> {
    let mine = of_name(points, name);
    if mine.is_empty() {
        return Err(Failure::not_found(format!("no restore point of '{name}'; see 'cairn list'")));
    }
    let none = |why: String| Failure::not_found(format!("'{name}' has no such point: {why}; see 'cairn list {name}'"));
    if which == "latest" {
        let mine = believed(mine);
        return Ok(mine[mine.len() - 1]);
    }
    if let Some(back) = which.strip_prefix('-') {
        let back: usize = back.parse().map_err(|_| Failure::usage(format!("'@{which}': a number follows the minus sign, as in {name}@-1")))?;
        let mine = believed(mine);
        return (mine.len() - 1).checked_sub(back).map(|i| mine[i]).ok_or_else(|| none(format!("there are only {}", mine.len())));
    }
    if let Some(limit) = parse_time(which) {
        let before = |p: &&&Point| i64::try_from(p.summary.time_unix_ms).is_ok_and(|ms| ms <= limit);
        return mine.iter().rev().find(before).copied().ok_or_else(|| none(format!("none is as old as {which}")));
    }
    if is_hex(which) {
        return by_prefix(mine.into_iter(), which, &format!("{name}@{which}"));
    }
    Err(Failure::usage(format!("'@{which}' is neither 'latest', '-N', a date such as 2026-11-21T02:00, nor an id prefix")))
}

fn by_prefix<'a>(points: impl Iterator<Item = &'a Point>, prefix: &str, spec: &str) -> Outcome<&'a Point> {
    let prefix = prefix.to_ascii_lowercase();
    let found: Vec<&Point> = points.filter(|p| p.id.to_string().starts_with(&prefix)).collect();
    match found.as_slice() {
        [] => Err(Failure::not_found(format!("no restore point '{spec}'; see 'cairn list'"))),
        [one] => Ok(one),
        many => {
            let ids: Vec<String> = many.iter().take(5).map(|p| format!("{} ({})", p.id, p.summary.name)).collect();
            Err(Failure::not_found(format!("'{spec}' fits {} points, give more digits: {}", many.len(), ids.join(", "))))
        }
    }
}

fn is_hex(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A time with zone, or one of the host's zone, as far as it is said: a date alone is the whole day. Unix milliseconds.
fn parse_time(text: &str) -> Option<i64> {
    if !text.contains('-') {
        return None;
    }
    if let Ok(t) = text.parse::<Timestamp>() {
        return Some(t.as_millisecond());
    }
    let civil: DateTime = text.parse().ok()?;
    // What is not said is the whole of it: "02:00" is not before 02:00:30, and a second, as `list` prints it, not before its milliseconds.
    let said_ms = match (text.contains('.'), text.contains([':', 'T', ' ']), text.matches(':').count()) {
        (true, ..) => 0,
        (_, false, _) => 24 * 3_600_000 - 1,
        (_, true, 0) => 3_600_000 - 1,
        (_, true, 1) => 60_000 - 1,
        _ => 999,
    };
    let rounded = civil.checked_add(jiff::Span::new().milliseconds(said_ms)).ok()?;
    TimeZone::system().to_timestamp(rounded).ok().map(|t| t.as_millisecond())
}

#[cfg(test)]
pub mod testing {
    use super::*;
    use cairn_store::format::{
        SessionId,
        register::{Body, DiskTable, Seen, Summary},
    };

    /// A point of this name and time.
    pub fn point(name: &str, time: &str, n: u8) -> Point {
        let ms = u64::try_from(time.parse::<Timestamp>().expect("time").as_millisecond()).expect("after 1970");
        Point {
            id: SessionId::new(ms, [n; 10]),
            summary: Summary { name: name.into(), time_unix_ms: ms, ..Summary::default() },
            body: Body { parents: vec![], seen: Seen::default(), disks: DiskTable::Inline(vec![]), manifest: None },
            register_sha256: [0; 32],
            log: vec![],
            log_damage: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::point, *};
    use cairn_store::format::register::Parent;

    #[test]
    fn a_time_is_as_long_as_it_is_said() {
        let at = |text: &str| parse_time(text).expect("a time");
        let base = at("2025-11-21T02:00:10.000");
        assert_eq!(at("2025-11-21T02:00:10") - base, 999, "the second that list prints");
        assert_eq!(at("2025-11-21 02:00:10") - base, 999);
        assert_eq!(at("2025-11-21 02:00"), at("2025-11-21T02:00"));
        assert_eq!(at("2025-11-21T02:00") - base, 49_999);
        assert_eq!(at("2025-11-21") - at("2025-11-21T00:00:00.000"), 86_399_999);
        assert_eq!(parse_time("latest"), None);
    }

    #[test]
    fn specifications_find_their_point() {
        let all = [
            point("web", "2025-11-20T02:00:10Z", 1),
            point("web", "2025-11-21T02:00:10Z", 2),
            point("odd@name", "2025-11-21T03:00:00Z", 3),
            point("web", "2025-11-22T02:00:10Z", 4),
        ];
        let pick = |spec: &str| select(&all, spec).map(|p| p.id.0[15]).map_err(|f| f.code);
        assert_eq!(pick("web@latest"), Ok(4));
        assert_eq!(pick("web"), Ok(4));
        assert_eq!(pick("web@-1"), Ok(2));
        assert_eq!(pick("web@-3"), Err(15));
        assert_eq!(pick(&format!("web@-{}", usize::MAX)), Err(15), "counting back ends at the oldest, however large the number");
        assert_eq!(pick("web@2025-11-21T12:00:00Z"), Ok(2));
        assert_eq!(pick("web@2025-11-19"), Err(15));
        assert_eq!(pick("web@2025-11-25"), Ok(4));
        assert_eq!(pick("odd@name"), Ok(3));
        assert_eq!(pick("odd@name@latest"), Ok(3));
        assert_eq!(pick(&all[1].id.to_string()[..14]), Ok(2));
        assert_eq!(pick(&format!("web@{}", &all[0].id.to_string()[..12])), Ok(1));
        assert_eq!(pick("nobody@latest"), Err(15));
        assert_eq!(pick("web@nonsense"), Err(2));
        assert_eq!(pick("0"), Err(15));
    }

    #[test]
    fn a_specification_without_its_name_says_what_is_missing() {
        let all = [point("web", "2025-11-20T02:00:10Z", 1), point("@odd", "2025-11-21T03:00:00Z", 2)];
        let wrong = |spec: &str| select(&all, spec).map(|p| p.id).map_err(|f| (f.code, f.message)).expect_err("it names nothing");
        for (spec, word) in
            [("@latest", "a name goes before the '@'"), ("@-1", "a name goes before"), ("@", "a name goes before"), ("web@", "ends at"), ("", "empty")]
        {
            let (code, message) = wrong(spec);
            assert!(code == 2 && message.contains(word) && message.contains("NAME@latest") && message.contains("'cairn list'"), "{spec}: {code} {message}");
        }
        assert_eq!(select(&all, "@odd").map(|p| p.id.0[15]).map_err(|f| f.code), Ok(2), "a whole name wins");
    }

    #[test]
    fn one_that_is_dated_ahead_is_not_the_latest() {
        let all = [point("web", "2025-11-20T02:00:10Z", 1), point("web", "2025-11-21T02:00:10Z", 2), point("web", "2222-11-21T02:00:10Z", 3)];
        let pick = |spec: &str| select(&all, spec).map(|p| p.id.0[15]).map_err(|f| f.code);
        assert_eq!((pick("web"), pick("web@latest"), pick("web@-1"), pick("web@-2")), (Ok(2), Ok(2), Ok(1), Err(15)));
        assert_eq!((pick("web@2222-12-01"), pick(&all[2].id.to_string())), (Ok(3), Ok(3)), "by its date or id it can be had");
        let only = [point("web", "2222-11-21T02:00:10Z", 3)];
        assert_eq!(select(&only, "web@latest").map(|p| p.id.0[15]).map_err(|f| f.code), Ok(3), "then it is this host's clock");
    }

    #[test]
    fn one_that_was_taken_with_a_clock_behind_is_the_latest_all_the_same() {
        let mut all = [point("web", "2001-01-01T00:00:00Z", 3), point("web", "2025-11-20T02:00:10Z", 1), point("web", "2025-11-21T02:00:10Z", 2)];
        all[0].body.parents = vec![Parent { session: all[2].id, register_sha256: [0; 32] }];
        let pick = |spec: &str| select(&all, spec).map(|p| p.id.0[15]).map_err(|f| f.code);
        assert_eq!((pick("web"), pick("web@-1"), pick("web@-2")), (Ok(3), Ok(2), Ok(1)));
        assert_eq!(pick("web@2025-11-21"), Ok(2), "dates are those that list shows");
    }
}
