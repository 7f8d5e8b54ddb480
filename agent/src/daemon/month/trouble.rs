//! What goes wrong in the month, and when: drawn from the seed, so that the model knows of all of it beforehand.

use super::sky::{DAY, HOUR, MINUTE, Rng};

/// Something that happens at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The store's folder is not there, and is back.
    Away(usize, bool),
    /// The store's disk is full, and is not any more.
    Full(usize, bool),
    /// libvirt's daemon is gone, and is back.
    Libvirt(bool),
    /// The host goes down: it says so to its processes, or its power is cut.
    HostDown {
        /// Processes end by themselves.
        in_order: bool,
    },
    HostUp,
    /// SIGKILL of the daemon.
    DaemonKilled,
    DaemonUp,
    /// The clock is set to be ahead by this.
    Clock(i64),
    /// The next backup that begins stands for hours and fails.
    Hang(bool),
    /// A job that runs is killed at one of its operations.
    JobKilled,
    /// A domain is defined, or undefined.
    Defined(usize, bool),
    Renamed(usize),
}

/// What a stretch of trouble concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    All,
    Store(usize),
    Machine(usize),
}

/// What it does to policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is begun; all of it is made up afterwards.
    Down,
    /// What is begun fails, and is tried again for an hour.
    Failing,
    /// The clock is wrong: by a little, or by a year.
    Clock,
    Year,
}

/// A stretch of time in which a promise may be late.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    pub from: u64,
    pub to: u64,
    pub on: On,
    pub kind: Kind,
}

/// The month's events, in order, and what they cover.
#[derive(Debug)]
pub struct Timetable {
    pub events: Vec<(u64, Event)>,
    pub stretches: Vec<Stretch>,
}

/// Machines that come later, go and come back, change their name.
pub const LATE: usize = 3;
pub const LEAVING: usize = 2;
pub const RENAMED: usize = 1;

const YEAR_MS: i64 = 365 * 86_400_000;
/// The month has so many days of trouble, behind a first one and before some quiet ones.
const DAYS: u64 = 25;

impl Timetable {
    /// `stores`: how many there are.
    pub fn draw(begin: u64, stores: usize, rng: &mut Rng) -> Self {
        let mut this = Self { events: Vec::new(), stretches: Vec::new() };
        let day = |rng: &mut Rng| begin + 12 * HOUR + rng.between(0, DAYS) * DAY;
        // The simulation begins at noon, and most backups are under way at half past one UTC, more or less.
        let night = |rng: &mut Rng| rng.between(10 * MINUTE, 3 * HOUR);
        let any = |rng: &mut Rng| rng.between(0, DAY);
        for store in 0..stores {
            let at = day(rng) + any(rng);
            this.pair(at, at + rng.between(6 * HOUR, 31 * HOUR), [Event::Away(store, true), Event::Away(store, false)], On::Store(store), Kind::Failing);
            let at = day(rng) + any(rng);
            this.pair(at, at + rng.between(20 * HOUR, 26 * HOUR), [Event::Full(store, true), Event::Full(store, false)], On::Store(store), Kind::Failing);
        }
        for _ in 0..3 {
            let at = day(rng) + night(rng);
            this.pair(at, at + rng.between(MINUTE, 40 * MINUTE), [Event::Libvirt(true), Event::Libvirt(false)], On::All, Kind::Failing);
            let at = day(rng) + night(rng);
            let down = Event::HostDown { in_order: rng.next().is_multiple_of(2) };
            this.pair(at, at + rng.between(4 * MINUTE, 9 * HOUR), [down, Event::HostUp], On::All, Kind::Down);
        }
        for _ in 0..5 {
            let at = day(rng) + if rng.next().is_multiple_of(2) { night(rng) } else { any(rng) };
            this.pair(at, at + rng.between(1, 30 * MINUTE), [Event::DaemonKilled, Event::DaemonUp], On::All, Kind::Down);
            let at = day(rng) + night(rng);
            this.pair(at, at + 10 * MINUTE, [Event::JobKilled, Event::JobKilled], On::All, Kind::Failing);
        }
        let at = day(rng) + night(rng);
        this.pair(at, at + 12 * HOUR, [Event::Hang(true), Event::Hang(false)], On::All, Kind::Failing);
        // The next backup may be the last one before that, and stand for seven hours.
        this.stretches.push(Stretch { from: at, to: at + 20 * HOUR, on: On::All, kind: Kind::Failing });
        this.clocks(begin, rng);
        let (at, back) = (day(rng) + any(rng), rng.between(DAY, 4 * DAY));
        this.pair(at, at + back, [Event::Defined(LEAVING, false), Event::Defined(LEAVING, true)], On::Machine(LEAVING), Kind::Down);
        this.pair(begin, begin + rng.between(2 * DAY, 9 * DAY), [Event::Defined(LATE, false), Event::Defined(LATE, true)], On::Machine(LATE), Kind::Down);
        let at = day(rng) + any(rng);
        this.events.push((at, Event::Renamed(RENAMED)));
        this.events.sort_by_key(|(at, _)| *at);
        this
    }

    /// Three hours ahead and two back, then right again; a year ahead and back: each in a part of the month of its own, for a clock is wrong in one way at a time.
    fn clocks(&mut self, begin: u64, rng: &mut Rng) {
        let hours = |n: i64| n * 3_600_000;
        let at = begin + DAY + rng.between(0, 10 * DAY);
        let (second, third) = (at + rng.between(10 * MINUTE, 20 * HOUR), at + rng.between(21 * HOUR, 40 * HOUR));
        self.events.extend([(at, Event::Clock(hours(3))), (second, Event::Clock(hours(1))), (third, Event::Clock(0))]);
        // A clock that was set back runs up to what was done already.
        self.stretches.push(Stretch { from: at, to: third + 3 * HOUR, on: On::All, kind: Kind::Clock });
        let at = begin + 14 * DAY + rng.between(0, 9 * DAY);
        let back = at + rng.between(MINUTE, 8 * HOUR);
        self.events.extend([(at, Event::Clock(YEAR_MS)), (back, Event::Clock(0))]);
        self.stretches.push(Stretch { from: at, to: back + HOUR, on: On::All, kind: Kind::Year });
    }

    fn pair(&mut self, from: u64, to: u64, [first, then]: [Event; 2], on: On, kind: Kind) {
        self.events.push((from, first));
        self.events.push((to, then));
        self.stretches.push(Stretch { from, to, on, kind });
    }
}
