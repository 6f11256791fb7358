//! A snapshot is whole and hashed, or it is an error.

use super::*;
use futures_util::StreamExt;
use prost::Message;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What happens in the middle of a walk.
type Spoil = fn() -> Result<ControlFlow<()>, Fault>;

/// `count` rows of 100 bytes; from the second walk on it does what `spoil` says in front of row `at`.
struct Fake {
    count: usize,
    at: usize,
    spoil: Spoil,
    walks: AtomicUsize,
}

impl Source for Fake {
    fn rows(&self, visit: &mut Visit<'_>) -> Result<(), Fault> {
        let is_spoilt = self.walks.fetch_add(1, Ordering::Relaxed) > 0;
        for n in 0..self.count {
            if is_spoilt && n == self.at && (self.spoil)()?.is_break() {
                return Ok(());
            }
            let key = (n as u64).to_be_bytes();
            if visit("key", &key, &[7; 92]).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn fake(at: usize, spoil: Spoil) -> Arc<Fake> {
    Arc::new(Fake {
        count: 5_000,
        at,
        spoil,
        walks: AtomicUsize::new(0),
    })
}

async fn permit() -> OwnedSemaphorePermit {
    let one = Arc::new(Semaphore::new(1));
    one.acquire_owned().await.expect("open")
}

/// The messages of a whole stream, and how it ended.
async fn read(mut pieces: Pieces) -> (Vec<SnapshotResponse>, Option<Status>) {
    let mut messages = Vec::new();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => messages
                .push(SnapshotResponse::decode(piece.data.slice(5..)).expect("a whole message")),
            Err(status) => return (messages, Some(status)),
        }
    }
    (messages, None)
}

async fn snapshot(source: Arc<Fake>) -> (Vec<SnapshotResponse>, Option<Status>) {
    let pieces = stream_of(source, "3.7".into(), permit().await).expect("threads");
    read(pieces).await
}

#[tokio::test]
async fn a_whole_file_ends_with_its_hash() {
    let (messages, failed) = snapshot(fake(usize::MAX, || Ok(ControlFlow::Continue(())))).await;
    assert_eq!(failed, None);
    let (hash, blobs) = messages.split_last().expect("messages");
    let mut sum = Sha256::new();
    blobs.iter().for_each(|message| sum.update(&message.blob));
    assert_eq!(hash.blob, sum.finalize().as_slice());
    let mut left: u64 = blobs.iter().map(|message| message.blob.len() as u64).sum();
    assert!(left > 500_000);
    for message in blobs {
        left -= message.blob.len() as u64;
        assert_eq!(message.remaining_bytes, left);
    }
}

#[tokio::test]
async fn rows_that_cannot_be_read_are_an_error_behind_what_was_sent() {
    let torn = || Err(Fault::new(FaultKind::Corrupted, "block 7 is damaged"));
    let (messages, failed) = snapshot(fake(4_000, torn)).await;
    let failed = failed.expect("an error");
    assert_eq!(
        (failed.code, &*failed.message),
        (Code::DataLoss, "block 7 is damaged")
    );
    assert!(messages.last().is_none_or(|last| last.remaining_bytes > 0));
}

#[tokio::test]
async fn rows_that_end_early_never_get_a_hash() {
    // In the middle; in front of the last row, which leaves the size of the file the same; and a thread that panics.
    let stops: [(usize, Spoil); 3] = [
        (2_000, || Ok(ControlFlow::Break(()))),
        (0, || Ok(ControlFlow::Break(()))),
        (4_999, || panic!("on purpose")),
    ];
    for (at, spoil) in stops {
        let (messages, failed) = snapshot(fake(at, spoil)).await;
        assert!(failed.is_some(), "{at}");
        assert!(messages.last().is_none_or(|last| last.blob.len() != 32));
    }
}

#[tokio::test]
async fn a_thread_that_cannot_be_started_is_an_error_whichever_it_is() {
    fn none(_: &'static str, _: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn one(name: &'static str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        match name {
            "snapshot" => spawn(name, body),
            _ => none(name, body),
        }
    }
    let source = || fake(usize::MAX, || Ok(ControlFlow::Continue(())));
    assert!(stream_with(none, source(), String::new(), permit().await).is_err());
    let pieces =
        stream_with(one, source(), String::new(), permit().await).expect("the first thread");
    let (messages, failed) = read(pieces).await;
    assert_eq!(messages, []);
    assert!(failed.is_some_and(|status| status.message.contains("no thread")));
}

#[tokio::test]
async fn the_place_is_free_again_when_the_client_has_gone() {
    let places = Arc::new(Semaphore::new(1));
    let permit = places.clone().acquire_owned().await.expect("open");
    let source = fake(usize::MAX, || Ok(ControlFlow::Continue(())));
    let mut pieces = stream_of(source, String::new(), permit).expect("threads");
    assert!(pieces.next().await.is_some());
    assert_eq!(places.available_permits(), 0);
    drop(pieces);
    let again = tokio::time::timeout(std::time::Duration::from_secs(10), places.acquire()).await;
    assert!(again.is_ok());
}
