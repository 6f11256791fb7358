//! What one call leaves in the metrics, whichever way it ends.

use std::cell::Cell;
use std::ops::Deref;
use std::time::Instant;

use proto::error::Code;
use proto::methods::{self, Kind};

use crate::member::Member;
use crate::metrics::MethodMetrics;

/// Counts one call. One that is dropped without an end was cancelled by its client.
pub struct Account<M: Deref<Target = Member>> {
    member: M,
    /// Position in `proto::methods::ALL`.
    method: usize,
    code: Cell<Code>,
    begun: Instant,
    received_bytes: Cell<usize>,
}

impl<M: Deref<Target = Member>> Account<M> {
    pub fn begin(member: M, method: usize) -> Self {
        member.metrics.methods[method].started.inc();
        Account {
            member,
            method,
            code: Cell::new(Code::Canceled),
            begun: Instant::now(),
            received_bytes: Cell::new(0),
        }
    }

    pub fn received(&self, bytes: usize) {
        self.method().received.inc();
        self.member.metrics.grpc_received_bytes.add(bytes as u64);
        self.received_bytes.set(bytes);
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
        let settings = self.member.settings();
        let is_unary = methods::ALL[self.method].kind == Kind::Unary;
        if !settings.extensive && !is_unary {
            return;
        }
        let took = self.begun.elapsed();
        if settings.extensive {
            self.method().handling.observe(took);
        }
        if is_unary && took > settings.warning_unary_request {
            // Without what was asked for: keys and values are nobody's business.
            tracing::warn!(
                "time spent" = format!("{took:?}"),
                "response type" = methods::ALL[self.method].path,
                "request size" = self.received_bytes.get(),
                code = self.code.get().name(),
                "request stats"
            );
        }
    }
}
