//! Bytes in flight: some of each connection's own, the rest shared.
//!
//! Why two kinds: with shared bytes alone, clients that do not read their replies would take all of them and hold up everybody for the length of
//! the reply limit. A connection waits for its own bytes only, and these come back as its own client reads.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes of one connection.
pub(super) struct Budget {
    /// All that this connection may have in flight.
    most: Arc<Semaphore>,
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// Bytes taken; dropping gives them back.
pub(super) struct Bytes {
    _most: OwnedSemaphorePermit,
    _from: OwnedSemaphorePermit,
}

impl Budget {
    pub(super) fn new(connection_bytes_max: u32, own_bytes: u32, shared: Arc<Semaphore>) -> Self {
        Self { most: Arc::new(Semaphore::new(connection_bytes_max as usize)), own: Arc::new(Semaphore::new(own_bytes as usize)), shared }
    }

    /// Waits until the connection may have so many more in flight.
    pub(super) async fn take(&self, bytes: u32) -> Bytes {
        const OPEN: &str = "the semaphores of a budget are never closed";
        let most = self.most.clone().acquire_many_owned(bytes).await.expect(OPEN);
        let from = match self.shared.clone().try_acquire_many_owned(bytes) {
            Ok(from) => from,
            Err(_) => self.own.clone().acquire_many_owned(bytes).await.expect(OPEN),
        };
        Bytes { _most: most, _from: from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn what_others_took_leaves_the_own_bytes() {
        let shared = Arc::new(Semaphore::new(100));
        let greedy = Budget::new(1000, 50, shared.clone());
        let modest = Budget::new(1000, 50, shared.clone());
        let held = greedy.take(100).await;
        let _own = greedy.take(50).await;
        let stuck = tokio::time::timeout(Duration::from_millis(20), greedy.take(1)).await;
        assert!(stuck.is_err(), "the greedy one waits");
        drop(modest.take(50).await);
        drop(held);
        let _again = modest.take(100).await;
        assert_eq!(shared.available_permits(), 0);
    }

    #[tokio::test]
    async fn a_connection_has_a_most_of_its_own() {
        let shared = Arc::new(Semaphore::new(1000));
        let budget = Budget::new(100, 50, shared.clone());
        let _held = budget.take(100).await;
        assert!(tokio::time::timeout(Duration::from_millis(20), budget.take(1)).await.is_err());
        assert_eq!(shared.available_permits(), 900);
    }
}
