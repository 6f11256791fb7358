//! From a configuration to a running member, and back to an ended process.
//!
//! The order: sockets are bound first, because a taken port is the most common mistake and costs nothing; then the data is
//! opened; then the threads start; and only when the member can serve does it accept its first connection.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use replica::boot::{self, Booted};
use replica::duties::{self, AutoCompaction};
use replica::{Input, MemberId, Request, watch};
use state::membership::id_to_hex;
use storage::datadir::{Layout, Permissions};
use storage::disk::{Disk, OsDisk, OsDiskUnsynced};
use storage::segments::SegmentsOptions;
use storage::wal::{self, Identity};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::bootstrap::{self, Beginning};
use crate::calls::{self, Calls};
use crate::config::{self, Config, Url};
use crate::grpc::Service;
use crate::grpc::session::Session;
use crate::logging::{self, Level, Note};
use crate::member::{Limits, Maintenance, Member, Settings};
use crate::metered::MeteredDisk;
use crate::monitor;
use crate::peer::ask::Asker;
use crate::peer::dial::Dialer;
use crate::peer::{self, Peers};
use crate::threads::{Core, Defragmenter, Inboxes, Surroundings, Threads};
use crate::tls::{self, Acceptor, Address};
use crate::transport::listen::{Listener, Security, SocketOptions};
use crate::transport::{self, Speaks, Transport};
use crate::watching::{self, Delivery, Hubs, Streams};

/// Files that are not for client connections. Source: upstream `reservedInternalFDNum`.
const FILES_RESERVED: u64 = 150;
/// How long a graceful stop may take: open calls first, then the last checkpoint.
const DRAIN: Duration = Duration::from_secs(5);
const LAST_CHECKPOINT: Duration = Duration::from_secs(30);
/// How long a member that has handed over stays, to pass on what others still send to it because they have not heard of the new
/// leader. Its callers would wait in vain.
const HANDED_OVER: Duration = Duration::from_millis(100);
/// How long a member that starts waits for others to be reached, before it stops caring for an early election. Source: upstream
/// `rafthttp.ConnReadTimeout`.
const PEERS_PATIENCE: Duration = Duration::from_secs(5);
/// A cluster of one that has no version gets this one at once; others are asked for theirs.
const CLUSTER_VERSION: &str = "3.7.0";

/// Where clients may come in, what they may ask there, and what the configuration calls it: two URLs where an `http` and an
/// `https` one name the same place.
struct Listening {
    listener: Listener,
    speaks: Speaks,
    urls: Vec<Url>,
}

/// Why a member stops that can still be trusted.
#[derive(Clone, Copy, Debug)]
enum Ended {
    /// By this signal.
    Signal(i32),
    /// It was removed from its cluster.
    Removed,
}

/// Runs a member until a signal, its removal or a fault ends it.
pub fn run(config: Config) -> ExitCode {
    let ended = match Running::start(&config) {
        Ok(running) => running.serve(),
        Err(why) => Err(why),
    };
    match ended {
        Ok(Ended::Signal(signal)) => die_by(signal),
        Ok(Ended::Removed) => ExitCode::SUCCESS,
        Err(why) => {
            logging::note(&Note::new(Level::Fatal, why));
            ExitCode::FAILURE
        }
    }
}

/// Ends the process as whoever sent the signal expects: by that signal. The first process of a container can't.
fn die_by(signal: i32) -> ExitCode {
    if std::process::id() != 1 {
        // Returns only if the operating system refused, and then a plain exit is all that is left.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    ExitCode::SUCCESS
}

struct Running {
    runtime: tokio::runtime::Runtime,
    listeners: Vec<Listening>,
    transport: Transport,
    threads: Threads,
    peers: Peers,
    member: Arc<Member>,
    tls: Arc<tls::Sides>,
    data_dir: storage::datadir::DataDir,
    data_dir_shown: String,
    name: String,
    client_urls: Vec<String>,
    /// Ticks that an election may come early by, once the others are reached.
    early_ticks: u64,
    /// The members of the cluster that is joined, as far as they were known before the start.
    remotes: Vec<state::membership::Member>,
}

impl Running {
    fn start(config: &Config) -> Result<Self, String> {
        let files = file_limit()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|why| format!("no event loop: {why}"))?;
        let mut ports = peer::Ports::bind(config)?;
        let mut listeners = runtime.block_on(bind_all(config))?;
        tell_start(config);
        let (tls, notes) = tls::Sides::load(config)?;
        notes.iter().for_each(logging::note);
        for listening in &mut listeners {
            listening.secure(&tls, files)?;
        }
        ports.secure(&tls.members)?;
        let disk: Arc<dyn Disk> = if config.unsafe_no_fsync {
            tracing::warn!("--unsafe-no-fsync is set: a power cut loses acknowledged writes");
            Arc::new(OsDiskUnsynced)
        } else {
            Arc::new(OsDisk)
        };
        let disk: Arc<dyn Disk> = Arc::new(MeteredDisk(disk));
        let dialer = Dialer::new(config, tls.members.clone());
        let asker = Asker::new(dialer.clone());
        let beginning = runtime.block_on(bootstrap::begin(config, &*disk, &asker))?;
        let booted = boot::start(disk.clone(), boot_params(config, &beginning))
            .map_err(|fault| fault.to_string())?;
        for warning in booted.data_dir.warnings() {
            tracing::warn!("{warning}");
        }
        tell_identity(config, beginning.identity, booted.is_new);
        Self::assemble(
            config,
            beginning,
            asker,
            (disk, booted),
            runtime,
            ((ports, dialer), listeners, tls),
            files,
        )
        .map_err(|why| format!("cannot start a thread: {why}"))
    }

    fn assemble(
        config: &Config,
        beginning: Beginning,
        asker: Asker,
        (disk, booted): (Arc<dyn Disk>, Booted),
        runtime: tokio::runtime::Runtime,
        ((ports, dialer), listeners, tls): ((peer::Ports, Dialer), Vec<Listening>, Arc<tls::Sides>),
        files: u64,
    ) -> io::Result<Self> {
        let cores = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(64);
        let inboxes = Inboxes::new(cores.div_ceil(4));
        let limits = Limits {
            request_bytes_max: config.limits.request_bytes_max,
            txn_ops_max: config.limits.txn_ops_max,
            quota_bytes: config.quota_bytes,
        };
        let identity = beginning.identity;
        let ids = (identity.cluster_id, identity.member_id);
        let view = booted.apply.published().view;
        let member = Member::new(ids, booted.ids.clone(), limits, view, inboxes.replica());
        member.configure(settings(config));
        let _ = member.asker.set(asker);
        let _ = member.tls.set(tls.clone());
        let mailboxes: Vec<Arc<calls::Mailbox>> = (0..cores).map(|_| Arc::default()).collect();
        let deliveries: Vec<Arc<watching::Mailbox>> = (0..cores).map(|_| Arc::default()).collect();
        let hubs = Arc::new(Hubs {
            inboxes: inboxes.hubs(),
        });
        let data_dir = booted.data_dir;
        let core = Core {
            replica: booted.replica,
            log: booted.log,
            apply: booted.apply,
            store: booted.store,
        };
        let around = Surroundings {
            member: member.clone(),
            mailboxes: mailboxes.clone(),
            watch_sink: watch_sink(deliveries.clone()),
            watch_limits: watch_limits(config),
            tick: Duration::from_millis(config.raft.heartbeat_ms),
        };
        let threads = Threads::start(core, inboxes, around)?;
        let _ = member.hooks.set(Box::new(Hooks(threads.defragmenter())));
        let peers = {
            let options = peer::Options::new(config, dialer, beginning.remotes.clone());
            let layout = Layout::new(&config.data_dir, config.wal_dir.clone());
            let snapshots = threads.snapshot_door(disk, layout);
            Peers::start(options, member.clone(), snapshots, ports)?
        };
        let options = transport_options(config, cores, files);
        let transport = {
            let member = member.clone();
            Transport::start(&options, move |shard| {
                let streams = Streams::new(shard, hubs.clone());
                let session = Session::new(member.clone(), Calls::new(shard), streams);
                let beside = session
                    .clone()
                    .run(mailboxes[shard].clone(), deliveries[shard].clone());
                (Service::new(session), beside)
            })?
        };
        Ok(Running {
            runtime,
            listeners,
            transport,
            threads,
            peers,
            member,
            tls,
            data_dir,
            data_dir_shown: config.data_dir.display().to_string(),
            name: config.name.clone(),
            client_urls: config
                .urls
                .advertise_client
                .iter()
                .map(ToString::to_string)
                .collect(),
            early_ticks: match config.raft.initial_election_tick_advance {
                true => config.raft.election_ticks() as u64 - 2,
                false => 0,
            },
            remotes: beginning.remotes,
        })
    }

    /// Serves until a signal, its removal or a fault (what to tell the operator).
    fn serve(self) -> Result<Ended, String> {
        let Running {
            runtime,
            listeners,
            transport,
            threads,
            peers,
            member,
            tls,
            data_dir,
            data_dir_shown,
            name,
            client_urls,
            early_ticks,
            remotes,
        } = self;
        let faults = threads.faults();
        let (fault_sender, mut fault) = oneshot::channel();
        std::thread::Builder::new()
            .name("faults".into())
            .spawn(move || faults.recv().map(|fault| fault_sender.send(fault)))
            .map_err(|why| format!("cannot start a thread: {why}"))?;
        let (metrics, clients): (Vec<_>, Vec<_>) = listeners
            .into_iter()
            .partition(|listening| listening.speaks == Speaks::Metrics);
        let ended = runtime.block_on(async {
            let mut signals =
                Signals::new().map_err(|why| format!("cannot listen to signals: {why}"))?;
            tokio::spawn(monitor::run(member.clone()));
            tokio::spawn(bootstrap::answer_for_past(member.clone(), remotes));
            tokio::spawn(elect_early(member.clone(), early_ticks));
            // Whoever watches over the member sees it from the start, also while it waits for others.
            let serve_metrics = accept_all(&metrics, &transport);
            let serve = async {
                until_published(&member, &name, &client_urls).await;
                tell_ready(clients.iter().chain(&metrics));
                accept_all(&clients, &transport).await
            };
            tokio::select! {
                number = signals.next() => Ok(Ended::Signal(number)),
                () = member.removed.notified() => Ok(Ended::Removed),
                fault = &mut fault => Err(told(fault)),
                _ = futures_util::future::join(serve, serve_metrics) => {
                    Err("the listeners ended without saying why".to_owned())
                }
                () = tls.watch() => Err("nobody looks after the TLS files".to_owned()),
            }
        });
        match &ended {
            Ok(Ended::Signal(number)) => tracing::info!(
                signal = signal_name(*number),
                "received signal; shutting down"
            ),
            Ok(Ended::Removed) => {
                let error = "the member has been permanently removed from the cluster";
                tracing::warn!(error, "server error");
                tracing::warn!(
                    "data-dir" = data_dir_shown,
                    "data-dir used by this member must be removed"
                );
            }
            // The data can't be trusted any more, so nothing more is answered or written.
            Err(_) => return ended,
        }
        let tell = |message: &str| {
            let note = Note::new(Level::Info, message)
                .with("name", name.as_str())
                .with("data-dir", data_dir_shown.as_str())
                .with("advertise-client-urls", client_urls.clone());
            logging::note(&note);
        };
        tell("closing etcd server");
        if matches!(ended, Ok(Ended::Signal(_))) {
            // First of all, so that the others go on while this one finishes what it has begun.
            runtime.block_on(hand_over(&member));
        }
        drop((clients, metrics));
        transport.stop(DRAIN);
        peers.stop();
        threads.stop(LAST_CHECKPOINT);
        drop(data_dir);
        tell("closed etcd server");
        ended
    }
}

/// Hands the leadership to the member that has been reached for the longest time, if this one has it and there is another voter.
///
/// Source: upstream `server/etcdserver/server.go`, `TryTransferLeadershipOnShutdown`.
async fn hand_over(member: &Arc<Member>) {
    let status = member.raft.get();
    let me = id_to_hex(member.member_id);
    let view = member.view.load_full();
    let others = view.members().members.values();
    let voters: Vec<u64> = others
        .filter(|other| !other.is_learner && other.id != member.member_id)
        .map(|other| other.id)
        .collect();
    if !status.is_leader || voters.is_empty() {
        let leader = id_to_hex(status.leader);
        let why = match status.is_leader {
            true => "skipped leadership transfer for single voting member cluster",
            false => "skipped leadership transfer; local server is not leader",
        };
        tracing::info!(
            "local-member-id" = me,
            "current-leader-member-id" = leader,
            "{why}"
        );
        return;
    }
    let reached = voters
        .iter()
        .filter_map(|id| Some((member.connected_for(*id)?, *id)));
    let Some((_, target)) = reached.max() else {
        let error = proto::error::UNHEALTHY.text;
        tracing::warn!("local-member-id" = me, error, "leadership transfer failed");
        return;
    };
    let to = id_to_hex(target);
    tracing::info!(
        "local-member-id" = me,
        "transferee-member-id" = to,
        "leadership transfer starting"
    );
    let begun = Instant::now();
    let target = MemberId(target);
    match member.ask(Request::MoveLeader { target }).await {
        Ok(_) => {
            tracing::info!(
                "local-member-id" = me,
                "new-leader-member-id" = to,
                took = format!("{:?}", begun.elapsed()),
                "leadership transfer finished"
            );
            tokio::time::sleep(HANDED_OVER).await;
        }
        Err(why) => {
            tracing::warn!(
                "local-member-id" = me,
                error = why.text,
                "leadership transfer failed"
            )
        }
    }
}

/// Lets the time until the first election pass quickly once another member is reached: if there is a leader it has been heard by then.
///
/// Source: upstream `server/etcdserver/server.go`, `adjustTicks`.
async fn elect_early(member: Arc<Member>, ticks: u64) {
    let deadline = Instant::now() + PEERS_PATIENCE;
    while ticks > 0 && Instant::now() < deadline && !member.raft.has_leader() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let view = member.view.load_full();
        let mut others = view
            .members()
            .members
            .keys()
            .filter(|id| **id != member.member_id);
        if others.any(|id| member.connected_for(*id).is_some()) {
            tracing::info!(
                "local-member-id" = id_to_hex(member.member_id),
                "forward-ticks" = ticks,
                "initialized peer connections; fast-forwarding election ticks"
            );
            for _ in 0..ticks {
                // One that finds no room is not missed.
                let _ = member.tell(Input::Tick);
            }
            return;
        }
    }
}

/// The way from the Defragment call to the apply thread.
struct Hooks(Defragmenter);

impl Maintenance for Hooks {
    fn defragment(&self) -> oneshot::Receiver<()> {
        self.0.start()
    }
}

fn told(fault: Result<storage::fault::Fault, oneshot::error::RecvError>) -> String {
    match fault {
        Ok(fault) => fault.to_string(),
        Err(_) => "the member's threads ended without saying why".to_owned(),
    }
}

fn boot_params(config: &Config, beginning: &Beginning) -> boot::Params {
    let identity = beginning.identity;
    let member = MemberId(identity.member_id);
    let tick_us = config.raft.heartbeat_ms * 1_000;
    let request_timeout_us =
        u64::try_from(config.raft.request_timeout().as_micros()).unwrap_or(u64::MAX);
    let wall = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let wall_ms = u64::try_from(wall.as_millis()).unwrap_or(0);
    boot::Params {
        layout: Layout::new(&config.data_dir, config.wal_dir.clone()),
        permissions: Permissions::Warn,
        identity,
        past: beginning.past,
        initial_members: beginning.founders.clone(),
        force_new_cluster: config.force_new_cluster,
        config: replica::Config {
            member,
            election_ticks: config.raft.election_ticks() as u64,
            tick_us,
            pre_vote: config.raft.pre_vote,
            request_timeout_us,
            log_keep_entries: config.raft.snapshot_catchup_entries,
            log_keep_bytes: 64 << 20,
            checkpoint_every_us: 10_000_000,
            checkpoint_bytes: 32 << 20,
            duties: duties::Config {
                member,
                name: config.name.clone(),
                client_urls: config
                    .urls
                    .advertise_client
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                cluster_version: (beginning.founders.len() == 1
                    && config.version_for_peers.is_none())
                .then(|| CLUSTER_VERSION.to_owned()),
                election_us: config.raft.election_ms * 1_000,
                auto_compaction: auto_compaction(config),
            },
            // Timeouts must differ between members and between starts; nothing else depends on it.
            seed: identity.member_id ^ wall_ms,
        },
        state: state::Params {
            lease_ttl_min_s: lease_ttl_min_s(config),
            quota_bytes: config.quota_bytes,
            learners_max: usize::try_from(config.raft.learners_max).unwrap_or(0),
            ..state::Params::default()
        },
        wal: wal::Options::default(),
        segments: SegmentsOptions {
            salt: identity.member_id as u32,
            ..SegmentsOptions::default()
        },
        wall_ms,
    }
}

/// One and a half election timeouts, in whole seconds, rounded up. Source: upstream `minTTL`.
fn lease_ttl_min_s(config: &Config) -> i64 {
    let ms = 3 * config.raft.election_ticks() as u64 * config.raft.heartbeat_ms / 2;
    i64::try_from(ms.div_ceil(1_000)).unwrap_or(i64::MAX)
}

fn auto_compaction(config: &Config) -> AutoCompaction {
    match config.auto_compaction {
        None => AutoCompaction::Off,
        Some(config::AutoCompaction::Periodic(retention)) => AutoCompaction::Periodic {
            retention_us: u64::try_from(retention.as_micros()).unwrap_or(u64::MAX),
        },
        Some(config::AutoCompaction::Revision(retention)) => AutoCompaction::Revision { retention },
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        quota_shown: config.quota_bytes.unwrap_or(0),
        election_timeout: Duration::from_millis(config.raft.election_ms),
        request_timeout: config.raft.request_timeout(),
        strict_reconfig: config.raft.strict_reconfig_check,
        version_for_peers: config.version_for_peers,
        host_whitelist: config.host_whitelist.clone(),
        cors: config.cors.clone(),
        extensive: config.monitoring.extensive,
        warning_apply: config.monitoring.warning_apply,
        warning_unary_request: config.monitoring.warning_unary_request,
        command_line: std::env::args().collect(),
    }
}

fn watch_limits(config: &Config) -> watch::Limits {
    watch::Limits {
        message_bytes: config.limits.request_bytes_max + (512 << 10),
        progress_interval_us: u64::try_from(config.monitoring.watch_progress.as_micros())
            .unwrap_or(0),
        ..watch::Limits::default()
    }
}

/// Sorts what a hub has for its streams to the threads that own them.
fn watch_sink(mailboxes: Vec<Arc<watching::Mailbox>>) -> crate::threads::WatchSink {
    Arc::new(move |effects| {
        let mut sorted: Vec<Vec<_>> = mailboxes.iter().map(|_| Vec::new()).collect();
        for effect in effects {
            match effect {
                watch::Effect::Deliver(stream, message) => {
                    sorted[watching::shard_of(stream)].push((stream, Delivery::Message(message)));
                }
                watch::Effect::Overrun(stream) => {
                    sorted[watching::shard_of(stream)].push((stream, Delivery::Overrun))
                }
                watch::Effect::WantsTurn => {}
            }
        }
        for (deliveries, mailbox) in sorted.into_iter().zip(&mailboxes) {
            if !deliveries.is_empty() {
                mailbox.post(deliveries);
            }
        }
    })
}

fn transport_options(config: &Config, threads: usize, files: u64) -> transport::Options {
    transport::Options {
        threads,
        connections_max: connections_max(files),
        streams_max: config.limits.concurrent_streams_max,
        keepalive_interval: config.keepalive.ping.map(|(interval, _)| interval),
        keepalive_timeout: config
            .keepalive
            .ping
            .map_or(Duration::from_secs(20), |(_, timeout)| timeout),
        // What grpc-go takes when nothing is set.
        ping_gap_min: config
            .keepalive
            .client_gap_min
            .unwrap_or(Duration::from_secs(5 * 60)),
        header_timeout: Duration::from_secs(300),
    }
}

/// How many connections of clients there may be. Source: upstream `configureClientListeners`.
fn connections_max(files: u64) -> usize {
    usize::try_from(files - FILES_RESERVED).unwrap_or(usize::MAX)
}

/// How many files this process may have open.
fn file_limit() -> Result<u64, String> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    if limit <= FILES_RESERVED {
        return Err(format!(
            "file descriptor limit of etcd process is too low, limit: {limit}, expected: more than {FILES_RESERVED}"
        ));
    }
    Ok(limit)
}

async fn bind_all(config: &Config) -> Result<Vec<Listening>, String> {
    let options = SocketOptions {
        reuse_port: config.socket.reuse_port,
    };
    let mut listeners = Vec::<Listening>::new();
    for url in &config.urls.listen_client {
        let is_same = |listening: &&mut Listening| listening.urls[0].names_place_of(url);
        if let Some(known) = listeners.iter_mut().find(is_same) {
            known.urls.push(url.clone());
            continue;
        }
        listeners.push(Listening::bind(url, Speaks::Both, options).await?);
    }
    for url in &config.urls.listen_metrics {
        listeners.push(Listening::bind(url, Speaks::Metrics, options).await?);
    }
    Ok(listeners)
}

impl Listening {
    async fn bind(url: &Url, speaks: Speaks, options: SocketOptions) -> Result<Self, String> {
        Ok(Listening {
            listener: Listener::bind(url, options).await?,
            speaks,
            urls: vec![url.clone()],
        })
    }

    /// Asks of connections what the URLs say.
    fn secure(&mut self, tls: &tls::Sides, files: u64) -> Result<(), String> {
        let (is_tls, is_plain) = (
            self.urls.iter().any(Url::is_tls),
            self.urls.iter().any(|url| !url.is_tls()),
        );
        if !is_tls {
            return Ok(());
        }
        // Clients may come from anywhere with their certificate; etcd asks more of who wants metrics.
        let address = match self.speaks {
            Speaks::Both => Address::Any,
            Speaks::Metrics => Address::Checked,
        };
        let acceptor = Acceptor::new(tls.clients.clone(), address, connections_max(files))
            .map_err(|why| format!("cannot listen on TLS for {}: {why}", self.urls[0]))?;
        self.listener.secure(match is_plain {
            true => Security::Either(acceptor),
            false => Security::Tls(acceptor),
        });
        Ok(())
    }
}

/// Accepts for ever. An accept that fails (too many files, a client that has gone) is tried again a little later.
async fn accept_all(listeners: &[Listening], transport: &Transport) {
    let accepting = listeners
        .iter()
        .map(|listening| accept_one(&listening.listener, listening.speaks, transport));
    futures_util::future::join_all(accepting).await;
    // Where nothing is listened to, nothing ever ends either.
    std::future::pending().await
}

async fn accept_one(listener: &Listener, speaks: Speaks, transport: &Transport) {
    let mut told = Instant::now() - Duration::from_secs(60);
    loop {
        let accepted = listener
            .accept()
            .await
            .and_then(|accepted| transport.accept(accepted, speaks));
        if let Err(why) = accepted {
            if told.elapsed() > Duration::from_secs(10) {
                tracing::warn!(error = %why, "a connection was not accepted");
                told = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Waits until the cluster knows this member by its name and addresses, which is when etcd says that it is ready.
async fn until_published(member: &Member, name: &str, client_urls: &[String]) {
    let mut pause = Duration::from_millis(1);
    loop {
        let view = member.view.load();
        let known = view.members().get(member.member_id);
        if known.is_some_and(|known| known.name == name && known.client_urls == client_urls)
            && member.raft.has_leader()
        {
            break;
        }
        drop(view);
        tokio::time::sleep(pause).await;
        // Alone it is a matter of a few, but the others of a new cluster may be started tomorrow.
        pause = (pause * 5 / 4).min(Duration::from_millis(50));
    }
    tracing::info!(
        "local-member-id" = id_to_hex(member.member_id),
        "local-member-attributes" =
            format!("{{Name:{name} ClientURLs:[{}]}}", client_urls.join(" ")),
        "cluster-id" = id_to_hex(member.cluster_id),
        "published local member to cluster through raft"
    );
}

/// What etcd tells when it starts, under its names, as far as we have it.
fn tell_start(config: &Config) {
    let urls = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
    let milliseconds = |ms: u64| config::show_duration(ms as i64 * 1_000_000);
    let member_dir = config.data_dir.join("member");
    let note = Note::new(Level::Info, "starting an etcd server")
        .with("etcd-version", config::VERSION_ETCD)
        .with("quorate-version", env!("CARGO_PKG_VERSION"))
        .with("member-initialized", member_dir.exists())
        .with("name", config.name.as_str())
        .with("data-dir", config.data_dir.display().to_string())
        .with("member-dir", member_dir.display().to_string())
        .with("force-new-cluster", config.force_new_cluster)
        .with("heartbeat-interval", milliseconds(config.raft.heartbeat_ms))
        .with("election-timeout", milliseconds(config.raft.election_ms))
        .with(
            "initial-advertise-peer-urls",
            urls(&config.urls.advertise_peer),
        )
        .with("listen-peer-urls", urls(&config.urls.listen_peer))
        .with("advertise-client-urls", urls(&config.urls.advertise_client))
        .with("listen-client-urls", urls(&config.urls.listen_client))
        .with("listen-metrics-urls", urls(&config.urls.listen_metrics))
        .with("cors", config.cors.clone())
        .with("host-whitelist", config.host_whitelist.clone())
        .with("initial-cluster-token", config.bootstrap.token.as_str())
        .with("quota-backend-bytes", config.quota_bytes.unwrap_or(0))
        .with("max-request-bytes", config.limits.request_bytes_max)
        .with(
            "max-concurrent-streams",
            config.limits.concurrent_streams_max,
        )
        .with("pre-vote", config.raft.pre_vote);
    logging::note(&note);
}

fn tell_identity(config: &Config, identity: Identity, is_new: bool) {
    tracing::info!(
        "local-member-id" = id_to_hex(identity.member_id),
        "cluster-id" = id_to_hex(identity.cluster_id),
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        "etcd-version" = config::VERSION_ETCD,
        "quorate-version" = env!("CARGO_PKG_VERSION"),
        "{}",
        if is_new { "starting local member" } else { "restarting local member" }
    );
}

fn tell_ready<'a>(listeners: impl Iterator<Item = &'a Listening>) {
    tracing::info!("ready to serve client requests");
    for listening in listeners {
        let address = listening.listener.address();
        for url in &listening.urls {
            match (listening.speaks, url.is_tls()) {
                (Speaks::Both, false) => tracing::info!(
                    traffic = "grpc+http",
                    address,
                    "serving client traffic insecurely; this is strongly discouraged!"
                ),
                (Speaks::Both, true) => tracing::info!(
                    traffic = "grpc+http",
                    address,
                    "serving client traffic securely"
                ),
                // etcd tells the URL here.
                (Speaks::Metrics, _) => tracing::info!(address = %url, "serving metrics"),
            }
        }
    }
    if let Err(why) = notify_manager() {
        tracing::warn!(error = %why, "failed to notify the service manager that the member is ready");
    }
}

/// Tells systemd (or whoever set `NOTIFY_SOCKET`) that the member serves.
fn notify_manager() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            socket.send_to_addr(b"READY=1", &address)?;
        }
        None => {
            socket.send_to(b"READY=1", path)?;
        }
    }
    Ok(())
}

/// The signals that end the member.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

/// As Go prints them.
fn signal_name(number: i32) -> &'static str {
    if number == SignalKind::interrupt().as_raw_value() {
        "interrupt"
    } else {
        "terminated"
    }
}
