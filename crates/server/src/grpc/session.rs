//! What a handler has at hand: the member, and the calls of its own thread.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use proto::error;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use replica::{Input, Reply, Request};
use state::{Applied, ReadError, ReadView, Response};

use super::leadership::Leadership;
use super::status::Status;
use crate::calls::{self, Calls};
use crate::member::Member;
use crate::watching::{self, Streams};

/// A linearizable read that waits longer than this is counted as slow.
const SLOW_READ: Duration = Duration::from_secs(1);

/// One connection thread's access to the member.
#[derive(Clone)]
pub struct Session {
    pub member: Arc<Member>,
    pub calls: Rc<Calls>,
    pub watches: Rc<Streams>,
    pub leadership: Rc<Leadership>,
}

impl Session {
    pub fn new(member: Arc<Member>, calls: Rc<Calls>, watches: Rc<Streams>) -> Self {
        Session {
            member,
            calls,
            watches,
            leadership: Rc::default(),
        }
    }

    /// What has to run beside the connections of the thread, for ever: hands out answers and deliveries, returns credit,
    /// and tells streams that want a leader when it is gone.
    pub async fn run(self, answers: Arc<calls::Mailbox>, deliveries: Arc<watching::Mailbox>) {
        let answer = async {
            loop {
                self.calls.deliver(answers.take().await);
            }
        };
        let deliver = async {
            loop {
                self.watches.deliver(deliveries.take().await);
            }
        };
        let credit = self.watches.return_credit();
        let leadership = self.leadership.run(&self.member);
        tokio::join!(answer, deliver, credit, leadership);
    }

    /// Asks the core and waits.
    pub async fn ask(&self, request: Request) -> Result<Reply, Status> {
        self.question(request).await.map_err(Status::from)
    }

    async fn question(&self, request: Request) -> calls::Answer {
        let call = self.calls.open();
        self.member.tell(Input::Client(call.ticket(), request))?;
        call.await
    }

    /// Puts a request through the log and waits until this member has applied it. A "no" of the replicated state becomes
    /// the status of the call.
    pub async fn propose(&self, mut request: InternalRaftRequest) -> Result<Box<Applied>, Status> {
        let id = self.member.ids.next();
        request.header = Some(RequestHeader {
            id,
            ..Default::default()
        });
        let data = request.encode_to_vec();
        if data.len() > self.member.limits.request_bytes_max {
            return Err(Status::from(&error::REQUEST_TOO_LARGE));
        }
        let begun = Instant::now();
        match self.question(Request::Propose { id, data }).await {
            Ok(Reply::Applied(applied)) => Ok(applied),
            Ok(other) => Err(Status::internal(format!(
                "a proposal was answered with {other:?}"
            ))),
            Err(why) => {
                self.member.metrics.proposals_failed.inc();
                Err(Status::from(self.member.why_late(why, begun)))
            }
        }
    }

    /// As [`Session::propose`], for requests whose answer is wanted.
    pub async fn response(&self, request: InternalRaftRequest) -> Result<Response, Status> {
        let applied = self.propose(request).await?;
        applied.outcome.map_err(|rejected| Status::from(rejected.0))
    }

    /// A view that holds everything acknowledged before the call, or for a serializable read any recent one.
    pub async fn view(&self, serializable: bool) -> Result<Arc<ReadView>, Status> {
        if !serializable && !self.member.raft.reads_are_local() {
            let metrics = &self.member.metrics;
            let begun = Instant::now();
            let ready = self.ask(Request::ReadBarrier).await;
            if begun.elapsed() > SLOW_READ {
                metrics.slow_read_indexes.inc();
            }
            ready.inspect_err(|_| metrics.read_indexes_failed.inc())?;
        }
        Ok(self.member.view.load_full())
    }
}

/// How a failed read shows to the client. A fault has been reported to the operator by whoever owns the data.
pub fn read_failed(error: ReadError) -> Status {
    match error {
        ReadError::Rejected(rejected) => Status::from(rejected.0),
        ReadError::Fault(fault) => Status::new(proto::error::Code::DataLoss, fault.to_string()),
    }
}
