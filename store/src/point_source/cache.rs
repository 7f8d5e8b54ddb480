//! What was read and proven, bounded in bytes; whoever needs what another is loading waits for it.
//!
//! Invariants
//! - The entries together never count more than `bytes_max`, looked at from outside of the lock. What is being loaded is not in it yet: its loader
//!   bounds that.
//! - A key is loaded by one thread at a time. Its claim ends with [`Claim::put`] or by being dropped; either wakes those who wait.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// After this a waiting reader loads by itself: storage that hangs for one may answer another.
const WAIT_LIMIT: Duration = Duration::from_secs(60);
/// What an entry takes besides its content: key, place in the map and in the order.
pub(super) const ENTRY_BYTES: usize = 160;

enum Slot<V> {
    Loading,
    Ready { value: V, bytes: usize, used: u64 },
}

struct State<K, V> {
    slots: HashMap<K, Slot<V>>,
    /// When an entry was last used -> its key; the first goes first.
    order: BTreeMap<u64, K>,
    clock: u64,
    bytes: usize,
}

/// See the module.
pub(super) struct Cache<K, V> {
    state: Mutex<State<K, V>>,
    changed: Condvar,
    bytes_max: usize,
}

/// What a look finds.
pub(super) enum Look<'a, K: Copy + Eq + Hash, V: Clone> {
    Ready(V),
    /// Another thread loads it.
    Loading,
    /// The caller must load it.
    Claimed(Claim<'a, K, V>),
}

/// The right and the duty to load a key.
pub(super) struct Claim<'a, K: Copy + Eq + Hash, V: Clone> {
    cache: &'a Cache<K, V>,
    key: K,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        let state = State { slots: HashMap::new(), order: BTreeMap::new(), clock: 0, bytes: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), bytes_max }
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// What is there, without claiming anything.
    pub(super) fn ready(&self, key: &K) -> Option<V> {
        self.lock().touch(key)
    }

    /// What is there, or the claim to load it.
    pub(super) fn look(&self, key: K) -> Look<'_, K, V> {
        let mut state = self.lock();
        match state.touch(&key) {
            Some(value) => Look::Ready(value),
            None if state.slots.contains_key(&key) => Look::Loading,
            None => {
                state.slots.insert(key, Slot::Loading);
                Look::Claimed(Claim { cache: self, key })
            }
        }
    }

    /// Waits while another thread loads it. `None`: that failed, took too long, or it is gone already.
    pub(super) fn wait(&self, key: &K) -> Option<V> {
        let since = Instant::now();
        let mut state = self.lock();
        while matches!(state.slots.get(key), Some(Slot::Loading)) {
            let left = WAIT_LIMIT.checked_sub(since.elapsed())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.touch(key)
    }
}

impl<K: Copy + Eq + Hash, V: Clone> State<K, V> {
    fn touch(&mut self, key: &K) -> Option<V> {
        let Some(Slot::Ready { value, used, .. }) = self.slots.get_mut(key) else { return None };
        self.clock += 1;
        self.order.remove(used);
        *used = self.clock;
        self.order.insert(self.clock, *key);
        Some(value.clone())
    }

    fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let (_, key) = self.order.pop_first().expect("bytes are those of entries in the order");
            if let Some(Slot::Ready { bytes, .. }) = self.slots.remove(&key) {
                self.bytes -= bytes;
            }
        }
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Claim<'_, K, V> {
    /// Loaded; `content_bytes` is what it takes.
    pub(super) fn put(self, value: V, content_bytes: usize) {
        let mut state = self.cache.lock();
        let bytes = content_bytes + ENTRY_BYTES;
        state.clock += 1;
        let used = state.clock;
        state.slots.insert(self.key, Slot::Ready { value, bytes, used });
        state.order.insert(used, self.key);
        state.bytes += bytes;
        state.shrink(self.cache.bytes_max);
        // Waking is the drop's.
    }
}

impl<K: Copy + Eq + Hash, V: Clone> Drop for Claim<'_, K, V> {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        if matches!(state.slots.get(&self.key), Some(Slot::Loading)) {
            state.slots.remove(&self.key);
        }
        drop(state);
        self.cache.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    fn put(cache: &Cache<u32, Arc<Vec<u8>>>, key: u32, bytes: usize) {
        match cache.look(key) {
            Look::Claimed(claim) => claim.put(Arc::new(vec![0; bytes]), bytes),
            _ => panic!("{key} is there"),
        }
    }

    #[test]
    fn the_least_used_go_and_the_bound_holds() {
        let cache = Cache::new(10 * (1000 + ENTRY_BYTES));
        for key in 0..10 {
            put(&cache, key, 1000);
        }
        assert!(cache.ready(&0).is_some(), "used again");
        put(&cache, 10, 1000);
        assert!(cache.ready(&1).is_none() && cache.ready(&0).is_some() && cache.ready(&10).is_some());
        put(&cache, 11, 5000);
        assert!(cache.bytes() <= 10 * (1000 + ENTRY_BYTES));
        put(&cache, 12, 1 << 20);
        assert_eq!(cache.bytes(), 0, "what is larger than all of it is not kept, nor anything besides");
    }

    #[test]
    fn who_waits_gets_what_was_loaded_or_the_claim() {
        let cache: Cache<u32, Arc<Vec<u8>>> = Cache::new(1 << 20);
        let Look::Claimed(claim) = cache.look(1) else { panic!("a new key") };
        assert!(matches!(cache.look(1), Look::Loading));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| cache.wait(&1).map(|v| v.len()));
            thread::sleep(Duration::from_millis(20));
            claim.put(Arc::new(vec![0; 7]), 7);
            assert_eq!(waiter.join().expect("waiter"), Some(7));
        });
        let Look::Claimed(claim) = cache.look(2) else { panic!("a new key") };
        drop(claim);
        assert!(cache.wait(&2).is_none() && matches!(cache.look(2), Look::Claimed(_)), "a failed load leaves nothing");
    }
}
