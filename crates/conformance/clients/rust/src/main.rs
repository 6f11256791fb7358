//! The Rust crate `etcd-client` against a server: `etcd-client-check HOST:PORT`. Exits with a panic at the first wrong answer.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, LeaseGrantOptions,
    LeaseTimeToLiveOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchResponse, WatchStream,
};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let endpoint = std::env::args()
        .nth(1)
        .expect("usage: etcd-client-check HOST:PORT");
    let mut client = Client::connect([endpoint], None).await?;
    key_values(&mut client).await?;
    transactions(&mut client).await?;
    watches(&mut client).await?;
    leases(&mut client).await?;
    maintenance(&mut client).await?;
    println!("etcd-client: done");
    Ok(())
}

async fn key_values(client: &mut Client) -> Result<(), Error> {
    println!("etcd-client: put, get, delete");
    let first = client.put("a", "1", None).await?;
    let second = client
        .put("a", "2", Some(PutOptions::new().with_prev_key()))
        .await?;
    assert_eq!(second.prev_key().expect("the previous value").value(), b"1");
    let revision = first.header().expect("a header").revision();
    assert_eq!(second.header().expect("a header").revision(), revision + 1);
    let got = client.get("a", None).await?;
    let kv = &got.kvs()[0];
    assert_eq!(
        (
            kv.value(),
            kv.version(),
            kv.create_revision(),
            kv.mod_revision()
        ),
        (&b"2"[..], 2, revision, revision + 1)
    );
    let old = client
        .get("a", Some(GetOptions::new().with_revision(revision)))
        .await?;
    assert_eq!(old.kvs()[0].value(), b"1");

    for (key, value) in [("p/1", "c"), ("p/2", "a"), ("p/3", "b"), ("q", "outside")] {
        client.put(key, value, None).await?;
    }
    let prefix = GetOptions::new().with_prefix();
    assert_eq!(client.get("p/", Some(prefix.clone())).await?.count(), 3);
    let sorted = client
        .get(
            "p/",
            Some(
                prefix
                    .clone()
                    .with_sort(SortTarget::Value, SortOrder::Descend),
            ),
        )
        .await?;
    let values: Vec<&[u8]> = sorted.kvs().iter().map(|kv| kv.value()).collect();
    assert_eq!(values, [b"c", b"b", b"a"]);
    let page = client.get("p/", Some(prefix.clone().with_limit(2))).await?;
    assert!(page.more() && page.kvs().len() == 2 && page.count() == 3);
    let keys = client
        .get("p/", Some(prefix.clone().with_keys_only()))
        .await?;
    assert!(keys.kvs().iter().all(|kv| kv.value().is_empty()));
    assert_eq!(
        client
            .get("p/", Some(prefix.with_count_only()))
            .await?
            .count(),
        3
    );
    assert_eq!(
        client
            .get("p/2", Some(GetOptions::new().with_from_key()))
            .await?
            .count(),
        3
    );
    assert_eq!(
        client
            .get(
                "",
                Some(GetOptions::new().with_all_keys().with_serializable())
            )
            .await?
            .count(),
        5
    );

    let deleted = client
        .delete(
            "p/",
            Some(DeleteOptions::new().with_prefix().with_prev_key()),
        )
        .await?;
    assert_eq!((deleted.deleted(), deleted.prev_kvs().len()), (3, 3));
    let refused = client
        .get("a", Some(GetOptions::new().with_revision(1_000_000)))
        .await;
    assert!(refused.is_err_and(|error| {
        error
            .to_string()
            .contains("required revision is a future revision")
    }));
    Ok(())
}

async fn transactions(client: &mut Client) -> Result<(), Error> {
    println!("etcd-client: transactions");
    client.put("t", "1", None).await?;
    let txn = Txn::new()
        .when([
            Compare::value("t", CompareOp::Equal, "1"),
            Compare::version("none", CompareOp::Equal, 0),
        ])
        .and_then([
            TxnOp::put("t", "2", None),
            TxnOp::get("t", None),
            TxnOp::delete("none", None),
        ])
        .or_else([TxnOp::put("t", "wrong", None)]);
    let answer = client.txn(txn).await?;
    assert!(answer.succeeded());
    match &answer.op_responses()[..] {
        [
            TxnOpResponse::Put(_),
            TxnOpResponse::Get(got),
            TxnOpResponse::Delete(deleted),
        ] => {
            assert_eq!(got.kvs()[0].value(), b"2");
            assert_eq!(deleted.deleted(), 0);
        }
        other => panic!("not what was asked for: {other:?}"),
    }
    let nested = Txn::new()
        .when([Compare::mod_revision("t", CompareOp::Greater, 0)])
        .and_then([TxnOp::put("nested", "yes", None)]);
    let outer = Txn::new().and_then([TxnOp::txn(nested)]);
    assert!(client.txn(outer).await?.succeeded());
    assert_eq!(client.get("nested", None).await?.kvs()[0].value(), b"yes");
    let twice = Txn::new().and_then([TxnOp::put("t", "3", None), TxnOp::put("t", "4", None)]);
    assert!(client.txn(twice).await.is_err_and(|error| {
        error
            .to_string()
            .contains("duplicate key given in txn request")
    }));
    Ok(())
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse, Error> {
    let message = tokio::time::timeout(Duration::from_secs(15), stream.message())
        .await
        .expect("an answer within 15 s");
    Ok(message?.expect("the stream is open"))
}

async fn watches(client: &mut Client) -> Result<(), Error> {
    println!("etcd-client: watches");
    let start = client
        .put("w/1", "1", None)
        .await?
        .header()
        .expect("a header")
        .revision();
    client.put("w/1", "2", None).await?;
    client.delete("w/1", None).await?;
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(start)
        .with_prev_key()
        .with_watch_id(7);
    let mut stream = client.watch("w/", Some(options)).await?;
    let created = next(&mut stream).await?;
    assert!(created.created() && created.watch_id() == 7);
    client.put("w/2", "live", None).await?;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let response = next(&mut stream).await?;
        assert_eq!(response.watch_id(), 7);
        for event in response.events() {
            let kv = event.kv().expect("an event has a kv");
            seen.push((
                event.event_type(),
                kv.key().to_vec(),
                kv.value().to_vec(),
                kv.mod_revision(),
                event.prev_kv().map(|kv| kv.value().to_vec()),
            ));
        }
    }
    let expected = [
        (EventType::Put, b"w/1".to_vec(), b"1".to_vec(), start, None),
        (
            EventType::Put,
            b"w/1".to_vec(),
            b"2".to_vec(),
            start + 1,
            Some(b"1".to_vec()),
        ),
        (
            EventType::Delete,
            b"w/1".to_vec(),
            Vec::new(),
            start + 2,
            Some(b"2".to_vec()),
        ),
        (
            EventType::Put,
            b"w/2".to_vec(),
            b"live".to_vec(),
            start + 3,
            None,
        ),
    ];
    assert_eq!(seen, expected);
    stream.request_progress().await?;
    let progress = next(&mut stream).await?;
    assert!(
        progress.events().is_empty()
            && progress.header().expect("a header").revision() >= start + 3
    );
    stream.cancel(7).await?;
    let cancelled = next(&mut stream).await?;
    assert!(cancelled.canceled() && cancelled.watch_id() == 7);
    Ok(())
}

async fn leases(client: &mut Client) -> Result<(), Error> {
    println!("etcd-client: leases");
    let granted = client
        .lease_grant(600, Some(LeaseGrantOptions::new().with_id(123)))
        .await?;
    assert_eq!((granted.id(), granted.ttl()), (123, 600));
    client
        .put("leased", "x", Some(PutOptions::new().with_lease(123)))
        .await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(123).await?;
    keeper.keep_alive().await?;
    assert_eq!(answers.message().await?.expect("an answer").ttl(), 600);
    let left = client
        .lease_time_to_live(123, Some(LeaseTimeToLiveOptions::new().with_keys()))
        .await?;
    assert_eq!(
        (left.granted_ttl(), left.keys()),
        (600, &[b"leased".to_vec()][..])
    );
    assert!((590..=600).contains(&left.ttl()));
    assert_eq!(
        client
            .leases()
            .await?
            .leases()
            .iter()
            .filter(|lease| lease.id() == 123)
            .count(),
        1
    );
    client.lease_revoke(123).await?;
    assert_eq!(client.get("leased", None).await?.count(), 0);
    assert_eq!(client.lease_time_to_live(123, None).await?.ttl(), -1);
    assert!(
        client
            .lease_revoke(123)
            .await
            .is_err_and(|error| error.to_string().contains("requested lease not found"))
    );
    Ok(())
}

async fn maintenance(client: &mut Client) -> Result<(), Error> {
    println!("etcd-client: members, status, compaction, snapshot");
    let members = client.member_list().await?;
    assert_eq!(members.members().len(), 1);
    let status = client.status().await?;
    assert_eq!(status.leader(), members.members()[0].id());
    assert!(status.version().starts_with("3.") && status.db_size() > 0 && status.raft_index() > 0);
    client.defragment().await?;
    let revision = client
        .get("a", None)
        .await?
        .header()
        .expect("a header")
        .revision();
    client.compact(revision, None).await?;
    let refused = client.compact(revision, None).await;
    assert!(refused.is_err_and(|error| {
        error
            .to_string()
            .contains("required revision has been compacted")
    }));
    assert!(client.hash_kv(revision).await?.hash() > 0);
    let mut stream = client.snapshot().await?;
    let mut size = 0;
    while let Some(part) = stream.message().await? {
        size += part.blob().len();
    }
    assert_eq!(size % 512, 32, "a bbolt file and its SHA-256");
    Ok(())
}
