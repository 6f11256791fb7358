//! What one call leaves in the metrics, whichever way it ends.

use std::cell::Cell;
use std::ops::Deref;
use std::time::{Duration, Instant};

use proto::error::Code;
use proto::methods::{self, Kind};

use crate::member::{Member, Settings};
use crate::metrics::MethodMetrics;

/// Counts one call. One that is dropped without an end was cancelled by its client.
pub struct Account<M: Deref<Target = Member>> {
    member: M,
    /// Position in `proto::methods::ALL`.
    method: usize,
    code: Cell<Code>,
    /// When the work began: of a unary call when its message had come, so that a slow client is not taken for slow work.
    /// Not asked for where nobody wants to know.
    begun: Cell<Option<Instant>>,
    received_bytes: Cell<usize>,
}

impl<M: Deref<Target = Member>> Account<M> {
    pub fn begin(member: M, method: usize) -> Self {
        member.metrics.methods[method].started.inc();
        let is_timed = !is_unary(method) && member.settings().extensive;
        Account {
            member,
            method,
            code: Cell::new(Code::Canceled),
            begun: Cell::new(is_timed.then(Instant::now)),
            received_bytes: Cell::new(0),
        }
    }

    pub fn received(&self, bytes: usize) {
        self.method().received.inc();
        self.member.metrics.grpc_received_bytes.add(bytes as u64);
        self.received_bytes.set(bytes);
        if is_unary(self.method) {
            self.begun.set(Some(Instant::now()));
        }
    }

    pub fn sent(&self, messages: usize, bytes: usize) {
        self.method().sent.add(messages as u64);
        self.member.metrics.grpc_sent_bytes.add(bytes as u64);
    }

    pub fn end(&self, code: Code) {
        self.code.set(code);
    }

    fn method(&self) -> &MethodMetrics {
        &self.member.metrics.methods[self.method]
    }
}

impl<M: Deref<Target = Member>> Drop for Account<M> {
    fn drop(&mut self) {
        self.method().handled(self.code.get());
        let Some(begun) = self.begun.get() else {
            return;
        };
        let (took, settings) = (begun.elapsed(), self.member.settings());
        if settings.extensive {
            self.method().handling.observe(took);
        }
        if is_unary(self.method) {
            self.tell_slow(took, settings);
        }
    }
}

impl<M: Deref<Target = Member>> Account<M> {
    /// Counts how long a range took, and logs what took too long; without what was asked for, because keys and values do
    /// not belong into a log. Source of the texts: upstream `server/etcdserver/txn/util.go`, `api/v3rpc/interceptor.go`.
    fn tell_slow(&self, took: Duration, settings: &Settings) {
        let path = methods::ALL[self.method].path;
        if path == "/etcdserverpb.KV/Range" {
            let is_well = self.code.get() == Code::Ok;
            let durations = &self.member.metrics.range_durations;
            durations[usize::from(is_well)].observe(took);
            if took > settings.warning_apply {
                tracing::warn!(
                    took = format!("{took:?}"),
                    "expected-duration" = format!("{:?}", settings.warning_apply),
                    prefix = "read-only range ",
                    "apply request took too long"
                );
            }
        }
        if took > settings.warning_unary_request {
            tracing::warn!(
                "time spent" = format!("{took:?}"),
                "response type" = path,
                "request size" = self.received_bytes.get(),
                code = self.code.get().name(),
                "request stats"
            );
        }
    }
}

fn is_unary(method: usize) -> bool {
    methods::ALL[method].kind == Kind::Unary
}
