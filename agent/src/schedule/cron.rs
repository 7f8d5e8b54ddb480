//! Cron expressions, as crontab(5) has them, and the civil times that they name.
//!
//! Five fields: minute, hour, day of the month, month, day of the week; a sixth in front is the second. `*`, lists, ranges, steps, names of months and days; `@hourly` and
//! its like. Where both days are restricted, either is enough, as in every cron.
//!
//! Our own, since the crates that there are bring a second calendar beside ours along, and decide themselves what a night is that lacks an hour ([`super::calendar`]).
//!
//! Invariant: an expression that was taken names a time within [`YEARS_MAX`] years; the 30th of February is an error and no schedule that never comes.

use jiff::civil::{Date, DateTime, Time};
use std::fmt;

/// Beyond it nothing is looked for: a leap day that falls on a certain day of the week comes within 28 years, 40 across a century.
const YEARS_MAX: i16 = 41;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const SHORT: [(&str, &str); 6] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
];

/// An expression that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Sunday is bit 0.
    weekdays: u64,
    /// Both kinds of days are restricted: either is enough.
    either_day: bool,
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// From its text.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let short = SHORT.iter().find(|(word, _)| *word == text.trim()).map(|(_, means)| *means);
        if short.is_none() && text.trim().starts_with('@') {
            let all: Vec<&str> = SHORT.iter().map(|(word, _)| *word).collect();
            return Err(format!("{text:?} is not known; there are: {}", all.join(", ")));
        }
        let fields: Vec<&str> = short.unwrap_or(text).split_whitespace().collect();
        let (second, fields) = match fields.len() {
            5 => ("0", &fields[..]),
            6 => (fields[0], &fields[1..]),
            n => return Err(format!("{text:?} has {n} fields; a schedule has five: minute hour day month weekday, as \"0 2 * * *\" for each night at two")),
        };
        let restricted = |field: &str| !field.starts_with('*');
        let cron = Self {
            text: text.trim().to_owned(),
            seconds: bits("second", second, 0..=59, &[])?,
            minutes: bits("minute", fields[0], 0..=59, &[])?,
            hours: bits("hour", fields[1], 0..=23, &[])?,
            days: bits("day of the month", fields[2], 1..=31, &[])?,
            months: bits("month", fields[3], 1..=12, &MONTHS)?,
            weekdays: weekdays(bits("day of the week", fields[4], 0..=7, &DAYS)?),
            either_day: restricted(fields[2]) && restricted(fields[4]),
        };
        match cron.next(Date::constant(2000, 1, 1).to_datetime(Time::midnight())) {
            Some(_) => Ok(cron),
            None => Err(format!("{text:?} names a day that never comes; look at its day and its month")),
        }
    }

    /// The first civil time that it names after this one.
    pub fn next(&self, after: DateTime) -> Option<DateTime> {
        let last_year = after.year().saturating_add(YEARS_MAX).min(9998);
        let mut date = after.date();
        let mut time = self.time_after(after.time());
        while date.year() <= last_year {
            if bit(self.months, date.month()) && self.is_day(date) {
                if let Some(time) = time {
                    return Some(date.to_datetime(time));
                }
                date = date.tomorrow().ok()?;
            } else if bit(self.months, date.month()) {
                date = date.tomorrow().ok()?;
            } else {
                date = date.last_of_month().tomorrow().ok()?;
            }
            time = self.first_time();
        }
        None
    }

    fn is_day(&self, date: Date) -> bool {
        let (day, weekday) = (bit(self.days, date.day()), bit(self.weekdays, date.weekday().to_sunday_zero_offset()));
        if self.either_day { day || weekday } else { day && weekday }
    }

    fn first_time(&self) -> Option<Time> {
        let first = |bits: u64| i8::try_from(bits.trailing_zeros()).unwrap_or(0);
        Time::new(first(self.hours), first(self.minutes), first(self.seconds), 0).ok()
    }

    /// The first time of the day after this one.
    fn time_after(&self, after: Time) -> Option<Time> {
        let first = |bits: u64| i8::try_from(bits.trailing_zeros()).unwrap_or(0);
        let (hour, minute) = (after.hour(), after.minute());
        if bit(self.hours, hour) {
            if bit(self.minutes, minute)
                && let Some(second) = from(self.seconds, after.second() + 1)
            {
                return Time::new(hour, minute, second, 0).ok();
            }
            if let Some(minute) = from(self.minutes, minute + 1) {
                return Time::new(hour, minute, first(self.seconds), 0).ok();
            }
        }
        from(self.hours, hour + 1).and_then(|hour| Time::new(hour, first(self.minutes), first(self.seconds), 0).ok())
    }
}

fn bit(bits: u64, at: i8) -> bool {
    (0..64).contains(&at) && bits & (1 << at) != 0
}

/// The lowest that is set, from one on.
fn from(bits: u64, at: i8) -> Option<i8> {
    let rest = if (0..64).contains(&at) { bits & (u64::MAX << at) } else { 0 };
    (rest != 0).then(|| i8::try_from(rest.trailing_zeros()).unwrap_or(0))
}

/// Sunday is 0 and 7.
fn weekdays(bits: u64) -> u64 {
    (bits | (bits >> 7)) & 0x7f
}

fn bits(what: &str, field: &str, within: std::ops::RangeInclusive<u8>, names: &[&str]) -> Result<u64, String> {
    let (min, max) = (*within.start(), *within.end());
    let wrong = |part: &str| format!("{part:?} is no {what}; there are {min} to {max}, '*', lists as 1,2, ranges as 1-5, and steps as */2");
    let number = |text: &str, part: &str| -> Result<u8, String> {
        let named =
            names.iter().position(|name| text.eq_ignore_ascii_case(name)).and_then(|at| u8::try_from(at).ok()).map(|at| at + u8::from(names.len() == 12));
        let number = named.or_else(|| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten());
        number.filter(|n| within.contains(n)).ok_or_else(|| wrong(part))
    };
    let mut out = 0_u64;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u8>().ok().filter(|s| (1..=max).contains(s)).ok_or_else(|| wrong(part))?),
            None => (part, 1),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (min, max),
            Some((first, last)) => (number(first, part)?, number(last, part)?),
            // "5/10" is from five on, as in Vixie's cron.
            None if part.contains('/') => (number(range, part)?, max),
            None => (number(range, part)?, number(range, part)?),
        };
        if first > last {
            return Err(format!("{part:?}: a range of a {what} goes upwards; write two, as {first}-{max},{min}-{last}"));
        }
        (first..=last).step_by(step.into()).for_each(|n| out |= 1 << n);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::{ToSpan, civil::datetime};

    fn cron(text: &str) -> Cron {
        Cron::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn expressions_name_their_times() {
        let after = datetime(2026, 11, 22, 21, 15, 30, 0);
        for (text, next) in [
            ("0 2 * * *", datetime(2026, 11, 23, 2, 0, 0, 0)),
            ("*/20 * * * *", datetime(2026, 11, 22, 21, 20, 0, 0)),
            ("15 21 * * *", datetime(2026, 11, 23, 21, 15, 0, 0)),
            ("* * * * *", datetime(2026, 11, 22, 21, 16, 0, 0)),
            ("*/10 * * * * *", datetime(2026, 11, 22, 21, 15, 40, 0)),
            ("30 15 21 * * *", datetime(2026, 11, 23, 21, 15, 30, 0)),
            // A Sunday.
            ("0 3 * * Sun", datetime(2026, 11, 29, 3, 0, 0, 0)),
            ("0 3 * * 7", datetime(2026, 11, 29, 3, 0, 0, 0)),
            ("0 22 * * 0", datetime(2026, 11, 22, 22, 0, 0, 0)),
            ("0 1 1 jan,Jul *", datetime(2027, 1, 1, 1, 0, 0, 0)),
            ("0 0 29 2 *", datetime(2028, 2, 29, 0, 0, 0, 0)),
            // Either day.
            ("0 0 1 * mon", datetime(2026, 11, 23, 0, 0, 0, 0)),
            ("0 0 1-7 * *", datetime(2026, 12, 1, 0, 0, 0, 0)),
            ("50/5 23 31 12 *", datetime(2026, 12, 31, 23, 50, 0, 0)),
            ("@weekly", datetime(2026, 11, 29, 0, 0, 0, 0)),
            (" @hourly ", datetime(2026, 11, 22, 22, 0, 0, 0)),
        ] {
            assert_eq!(cron(text).next(after), Some(next), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_told_by_its_field() {
        for (text, word) in [
            ("0 2 * *", "has 4 fields"),
            ("", "has 0 fields"),
            ("0 25 * * *", "\"25\" is no hour"),
            ("60 2 * * *", "is no minute"),
            ("0 2 0 * *", "is no day of the month"),
            ("0 2 * foo *", "is no month"),
            ("0 2 * * 8", "is no day of the week"),
            ("*/0 2 * * *", "is no minute"),
            ("0 22-6 * * *", "write two, as 22-23,0-6"),
            ("1, 2 * * * *", "is no second"),
            ("-1 2 * * *", "is no minute"),
            ("+1 2 * * *", "is no minute"),
            ("0 0 30 2 *", "never comes"),
            ("@sometimes", "@hourly"),
        ] {
            let e = Cron::parse(text).expect_err(text);
            assert!(e.contains(word), "{text}: {e}");
        }
    }

    /// Each minute of two years, by the definition.
    #[test]
    fn the_next_time_is_the_first_that_fits() {
        for text in ["*/7 3,5 1-10/3 * *", "0 2 * * 1-5", "30 23 31 * *", "15 0 28-31 2,12 6", "1 1 13 * fri", "59 23 29 2 *"] {
            let cron = cron(text);
            let fits = |t: DateTime| bit(cron.minutes, t.minute()) && bit(cron.hours, t.hour()) && bit(cron.months, t.month()) && cron.is_day(t.date());
            let (mut t, end) = (datetime(2027, 6, 30, 12, 0, 0, 0), datetime(2029, 6, 30, 12, 0, 0, 0));
            let mut next = cron.next(t).expect("comes");
            let mut count = 0;
            while t < end {
                t = t.checked_add(1.minute()).expect("in range");
                if fits(t) {
                    assert_eq!(next, t, "{text}");
                    (next, count) = (cron.next(t).expect("comes"), count + 1);
                }
                assert!(next > t, "{text}: {next} was passed at {t}");
            }
            assert!(count > 0, "{text}");
        }
    }
}
