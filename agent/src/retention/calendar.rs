//! Hours, days, ISO weeks, months and years of a point, in the host's time zone.

use cairn_store::Point;
use jiff::{Timestamp, Zoned, tz::TimeZone};

/// A span of the calendar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Period {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl Period {
    /// Equal for two times exactly if both lie in the same period.
    pub(super) fn key(self, t: &Zoned) -> (i16, i16, i8) {
        match self {
            // An hour that a clock change repeats is two hours to nobody who reads a list.
            Self::Hour => (t.year(), t.day_of_year(), t.hour()),
            Self::Day => (t.year(), t.day_of_year(), 0),
            Self::Week => (t.date().iso_week_date().year(), 0, t.date().iso_week_date().week()),
            Self::Month => (t.year(), 0, t.month()),
            Self::Year => (t.year(), 0, 0),
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

/// A point's time in a zone.
pub(super) fn zoned(unix_ms: u64, zone: &TimeZone) -> Zoned {
    let stamp = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    stamp.unwrap_or(Timestamp::MAX).to_zoned(zone.clone())
}

/// Tags that a new point of `name` gets by itself: `daily`, `weekly`, `monthly` for the first one of its day, week and month.
pub fn calendar_tags(points: &[Point], name: &str, time_unix_ms: u64, zone: &TimeZone) -> Vec<String> {
    let new = zoned(time_unix_ms, zone);
    let first_of = |period: Period| {
        let mut mine = points.iter().filter(|p| p.summary.name == name);
        !mine.any(|p| period.key(&zoned(p.summary.time_unix_ms, zone)) == period.key(&new))
    };
    [Period::Day, Period::Week, Period::Month].into_iter().filter(|p| first_of(*p)).map(|p| p.word().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_end_where_the_calendar_says() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time").to_zoned(TimeZone::UTC);
        let same = |p: Period, a: &str, b: &str| p.key(&at(a)) == p.key(&at(b));
        assert!(same(Period::Week, "2026-12-28T00:00:00Z", "2027-01-03T23:59:59Z"), "ISO week 53 of 2026");
        assert!(!same(Period::Week, "2027-01-03T23:59:59Z", "2027-01-04T00:00:00Z"));
        assert!(!same(Period::Year, "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"));
        assert!(same(Period::Hour, "2026-11-21T02:00:00Z", "2026-11-21T02:59:59Z"));
        assert!(!same(Period::Month, "2026-11-21T02:00:00Z", "2025-11-21T02:00:00Z"));
    }
}
