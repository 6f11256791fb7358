//! How many of the calls that read everything may be under way at once.
//!
//! Such a call costs threads, a pinned view, or minutes of a processor, so a client that opens many of them would starve
//! the rest. What is above a bound is refused with "too many requests", which clients take as a reason to wait.

use std::sync::Arc;

use proto::error::{self, RpcError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Snapshots under way, with two threads and about a megabyte each.
pub const SNAPSHOTS_MAX: usize = 16;
/// Hashes computed at once; each keeps a processor busy.
const HASHES_AT_ONCE: usize = 2;
/// Hashes that are computed or wait for that.
pub const HASHES_MAX: usize = 64;
/// Calls that wait for space to be given back. They share the work.
pub const DEFRAGMENTATIONS_MAX: usize = 64;

/// The places that such calls take.
#[derive(Debug)]
pub struct LongCalls {
    snapshots: Arc<Semaphore>,
    hashes: Arc<Semaphore>,
    hashing: Arc<Semaphore>,
    defragmentations: Arc<Semaphore>,
}

/// The place of a hash, from its turn until it is computed.
pub struct HashPlace {
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Default for LongCalls {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        LongCalls {
            snapshots: places(SNAPSHOTS_MAX),
            hashes: places(HASHES_MAX),
            hashing: places(HASHES_AT_ONCE),
            defragmentations: places(DEFRAGMENTATIONS_MAX),
        }
    }
}

impl LongCalls {
    /// A place for a snapshot.
    pub fn snapshot(&self) -> Result<OwnedSemaphorePermit, &'static RpcError> {
        take(&self.snapshots)
    }

    /// A place for a hash; waits until it is its turn.
    pub async fn hash(&self) -> Result<HashPlace, &'static RpcError> {
        let place = take(&self.hashes)?;
        let turn = self.hashing.clone().acquire_owned().await;
        Ok(HashPlace {
            _turn: turn.map_err(|_| &error::STOPPED)?,
            _place: place,
        })
    }

    /// A place for a call that waits for space to be given back.
    pub fn defragmentation(&self) -> Result<OwnedSemaphorePermit, &'static RpcError> {
        take(&self.defragmentations)
    }

    /// Whether somebody waits for space to be given back.
    pub fn is_defragmenting(&self) -> bool {
        self.defragmentations.available_permits() < DEFRAGMENTATIONS_MAX
    }
}

fn take(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, &'static RpcError> {
    let place = places.clone().try_acquire_owned();
    place.map_err(|_| &error::REQUEST_TOO_MANY_REQUESTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn one_more_than_the_bound_is_refused_until_one_has_ended() {
        let calls = LongCalls::default();
        let mut places: Vec<_> = (0..SNAPSHOTS_MAX)
            .map(|_| calls.snapshot().expect("a place"))
            .collect();
        let refused = calls.snapshot().expect_err("no place");
        assert_eq!(*refused, error::REQUEST_TOO_MANY_REQUESTS);
        places.pop();
        assert!(calls.snapshot().is_ok());
    }

    #[test]
    fn hashes_wait_for_their_turn_and_give_up_their_place_when_dropped() {
        let calls = LongCalls::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut all: Vec<_> = (0..HASHES_MAX).map(|_| Box::pin(calls.hash())).collect();
        let mut running = Vec::new();
        for call in &mut all {
            if let Poll::Ready(place) = call.as_mut().poll(&mut cx) {
                running.push(place.expect("a place"));
            }
        }
        assert_eq!(running.len(), HASHES_AT_ONCE);
        assert!(matches!(
            Box::pin(calls.hash()).as_mut().poll(&mut cx),
            Poll::Ready(Err(_))
        ));
        drop(running);
        drop(all);
        assert_eq!(calls.hashes.available_permits(), HASHES_MAX);
    }
}
