//! Hours of the day within which work of a policy may begin: `22:00-06:00`.

use super::calendar::timestamp;
use jiff::{civil::Time, tz::TimeZone};
use std::fmt;

/// Minutes of the day; the second is not in it. Over midnight where the first is the greater.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    from_min: u16,
    to_min: u16,
    zone: TimeZone,
}

impl Window {
    /// From `HH:MM-HH:MM`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no window; write from when to when work may begin, as 22:00-06:00");
        let minutes = |text: &str| -> Option<u16> {
            let (hour, minute) = text.trim().split_once(':')?;
            let number = |text: &str, max: u16| (text.len() == 2).then(|| text.parse::<u16>().ok()).flatten().filter(|n| *n <= max);
            Some(number(hour, 24)? * 60 + number(minute, 59)?).filter(|n| *n <= 24 * 60)
        };
        let (from, to) = text.split_once('-').ok_or_else(wrong)?;
        let (from_min, to_min) = (minutes(from).ok_or_else(wrong)?, minutes(to).ok_or_else(wrong)?);
        if from_min % (24 * 60) == to_min % (24 * 60) {
            return Err(format!("{text:?}: nothing, or everything; leave window out if work may begin at any time"));
        }
        Ok(Self { from_min: from_min % (24 * 60), to_min, zone: zone.clone() })
    }

    /// Whether work may begin now.
    pub fn is_open(&self, now_unix_ms: u64) -> bool {
        let Some(now) = timestamp(now_unix_ms) else { return true };
        let time = now.to_zoned(self.zone.clone()).time();
        let now = minute_of(time);
        if self.from_min < self.to_min { (self.from_min..self.to_min).contains(&now) } else { now >= self.from_min || now < self.to_min }
    }

    /// From such a text with its zone behind it, as tables and folders have it.
    pub fn of_record(text: &str) -> Option<Self> {
        let (window, zone) = text.split_once(' ')?;
        let zone = if zone == LOCAL { TimeZone::system() } else { TimeZone::get(zone).ok()? };
        Self::parse(window, &zone).ok()
    }

    /// The text of [`Window::of_record`].
    pub fn record(&self) -> String {
        format!("{self} {}", self.zone.iana_name().unwrap_or(LOCAL))
    }
}

/// A host's zone that has no name.
const LOCAL: &str = "local";

fn minute_of(time: Time) -> u16 {
    u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from_min, self.to_min);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<jiff::Timestamp>().expect("a time").as_millisecond()).expect("after 1970")
    }

    #[test]
    fn a_window_is_open_within_its_hours() {
        let berlin = TimeZone::get("Europe/Berlin").expect("a zone");
        let night = Window::parse("22:00-06:00", &berlin).expect("a window");
        for (time, open) in [("20:59:59", false), ("21:00:00", true), ("23:30:00", true), ("04:59:59", true), ("05:00:00", false), ("12:00:00", false)] {
            assert_eq!(night.is_open(at(&format!("2026-11-22T{time}Z"))), open, "{time}");
        }
        assert!(night.is_open(at("2026-07-22T20:00:00Z")), "by the clock on the wall");
        let day = Window::parse("08:30-17:00", &TimeZone::UTC).expect("a window");
        assert!(day.is_open(at("2026-11-22T08:30:00Z")) && !day.is_open(at("2026-11-22T17:00:00Z")));
        let late = Window::parse("18:00-24:00", &TimeZone::UTC).expect("a window");
        assert!(late.is_open(at("2026-11-22T23:59:59Z")) && !late.is_open(at("2026-11-22T00:00:00Z")));
        assert_eq!(Window::of_record(&night.record()), Some(night.clone()));
        assert_eq!((night.to_string(), late.to_string()), ("22:00-06:00".into(), "18:00-24:00".into()));
    }

    #[test]
    fn what_is_none_is_told() {
        for wrong in ["", "22-6", "22:00", "25:00-06:00", "22:00-06:60", "22:00-22:00", "00:00-24:00", "2:00-6:00", "24:30-06:00"] {
            assert!(Window::parse(wrong, &TimeZone::UTC).is_err(), "{wrong}");
        }
    }
}
