//! Sockets: threads with a runtime each, connections handed to them in turn, HTTP/1 and HTTP/2 on the same port.
//!
//! A connection lives on one thread for good, so nothing about it is shared or locked. Which protocol it speaks is told
//! by its first bytes, as in etcd: the HTTP/2 preface means gRPC, everything else is HTTP/1.

mod authority;
pub mod collect;
pub mod listen;
pub mod pings;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming as Received;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::grpc::body::Body;
use listen::{Accepted, Remote};
use pings::{Activity, Incoming, OpenCall};

/// How long a client that was told to go may take to hang up.
const LINGER: Duration = Duration::from_secs(1);

/// What may speak on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// gRPC and HTTP/1, told apart by the first bytes.
    Both,
    /// Metrics and health only.
    Metrics,
}

/// Who asks, the same for all requests of a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What is answered where it came in.
    pub speaks: Speaks,
    /// Where it comes from, and the certificate it has shown.
    pub remote: Remote,
}

/// Limits and keepalives of client connections.
#[derive(Clone, Debug)]
pub struct Options {
    pub threads: usize,
    /// Connections beyond this are closed at once. etcd: the limit of open files, less 150.
    pub connections_max: usize,
    pub streams_max: u32,
    /// How often an idle HTTP/2 connection is asked whether it is still there; `None` never asks.
    pub keepalive_interval: Option<Duration>,
    pub keepalive_timeout: Duration,
    /// The shortest time between two pings of a client that has a call under way.
    pub ping_gap_min: Duration,
    /// How long a client may take to say what it speaks, and in HTTP/1 to send the headers of a request.
    pub header_timeout: Duration,
}

/// Answers requests of one connection thread.
pub trait Handler: 'static {
    fn handle(
        self: Rc<Self>,
        request: Request<Received>,
        caller: Rc<Caller>,
    ) -> impl Future<Output = Response<Body>> + 'static;
}

/// The threads that serve connections.
pub struct Transport {
    threads: Vec<(mpsc::UnboundedSender<Connection>, JoinHandle<()>)>,
    next: AtomicUsize,
    open: Arc<AtomicUsize>,
    connections_max: usize,
    stop: watch::Sender<bool>,
}

struct Connection {
    accepted: Accepted,
    speaks: Speaks,
    open: OpenGuard,
}

/// Counts a connection for as long as it lives.
struct OpenGuard(Arc<AtomicUsize>);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Transport {
    /// Starts the threads; `make` builds the handler of each on its own thread, together with a task that runs beside it.
    pub fn start<H, M, F>(options: &Options, make: M) -> io::Result<Self>
    where
        H: Handler,
        M: Fn(usize) -> (Rc<H>, F) + Clone + Send + 'static,
        F: Future<Output = ()> + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::new();
        for shard in 0..options.threads {
            // Not bounded by the channel but by `connections_max`, which is checked before anything is sent.
            let (sender, receiver) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (options, make, stopped) = (options.clone(), make.clone(), stopped.clone());
            let thread = std::thread::Builder::new()
                .name(format!("client-{shard}"))
                .spawn(move || {
                    let local = LocalSet::new();
                    let (handler, beside) = make(shard);
                    local.spawn_local(beside);
                    local.block_on(&runtime, accept_all(receiver, options, handler, stopped));
                })?;
            threads.push((sender, thread));
        }
        Ok(Transport {
            threads,
            next: AtomicUsize::new(0),
            open: Arc::default(),
            connections_max: options.connections_max,
            stop,
        })
    }

    /// Hands a fresh connection to the next thread, or closes it when there are too many.
    pub fn accept(&self, accepted: Accepted, speaks: Speaks) -> io::Result<()> {
        let open = OpenGuard(self.open.clone());
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.connections_max {
            return Err(io::Error::other(format!(
                "{} connections are open already",
                self.connections_max
            )));
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.threads.len();
        self.threads[turn]
            .0
            .send(Connection {
                accepted,
                speaks,
                open,
            })
            .map_err(|_| io::Error::other("the server is stopping"))
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets every connection finish the calls it has begun, for at most `patience`, then ends the threads.
    pub fn stop(self, patience: Duration) {
        let _ = self.stop.send(true);
        let deadline = std::time::Instant::now() + patience;
        while self.open() > 0 && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        for (sender, thread) in self.threads {
            drop(sender);
            let _ = thread.join();
        }
    }
}

/// Serves connections until no more can come, which is when the transport is stopped.
async fn accept_all<H: Handler>(
    mut connections: mpsc::UnboundedReceiver<Connection>,
    options: Options,
    handler: Rc<H>,
    stopped: watch::Receiver<bool>,
) {
    while let Some(Connection {
        accepted,
        speaks,
        open,
    }) = connections.recv().await
    {
        let (options, handler, stopped) = (options.clone(), handler.clone(), stopped.clone());
        tokio::task::spawn_local(async move {
            // A connection that ends with an error has told its client, or has none to tell.
            let _ = serve(accepted, speaks, &options, handler, stopped).await;
            drop(open);
        });
    }
}

async fn serve<H: Handler>(
    accepted: Accepted,
    speaks: Speaks,
    options: &Options,
    handler: Rc<H>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // On the heap, so that a connection that is open does not keep the place of its handshake.
    let opening = Box::pin(accepted.open());
    let (stream, remote) = tokio::select! {
        opened = opening => match opened? {
            Some(opened) => opened,
            None => return Ok(()),
        },
        _ = stopped.wait_for(|stop| *stop) => return Ok(()),
    };
    let caller = Rc::new(Caller { speaks, remote });
    let builder = protocols(options);
    let activity = Rc::<Activity>::default();
    let incoming = Incoming::new(options.ping_gap_min, activity.clone());
    let service = service_fn(move |request| {
        let call = OpenCall::begin(&activity);
        let answer = handler.clone().handle(request, caller.clone());
        async move { Ok::<_, Infallible>(answer.await.map(|body| call.watch(body))) }
    });
    let mut connection = std::pin::pin!(collect::collect(stream, incoming, |io| {
        builder
            .serve_connection(TokioIo::new(io), service)
            .into_owned()
    }));
    let mut undecided = std::pin::pin!(tokio::time::sleep(options.header_timeout));
    let mut is_undecided = true;
    let outcome = loop {
        tokio::select! {
            biased;
            done = &mut connection => break done,
            _ = stopped.wait_for(|stop| *stop) => {
                connection.as_mut().connection().graceful_shutdown();
                break connection.as_mut().await;
            }
            () = &mut undecided, if is_undecided => {
                if !connection.is_decided() {
                    return Ok(());
                }
                is_undecided = false;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, connection.dismiss()).await;
    outcome
}

fn protocols(options: &Options) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        .max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(options.streams_max)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_header_list_size(16 << 10)
        .max_send_buf_size(1 << 20)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

/// Runs a connection's streams on the thread of the connection.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
