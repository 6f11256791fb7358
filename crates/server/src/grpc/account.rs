//! What one call leaves in the metrics, whichever way it ends.

use std::cell::Cell;
use std::ops::Deref;

use proto::error::Code;

use crate::member::Member;
use crate::metrics::MethodMetrics;

/// Counts one call. One that is dropped without an end was cancelled by its client.
pub struct Account<M: Deref<Target = Member>> {
    member: M,
    /// Position in `proto::methods::ALL`.
    method: usize,
    code: Cell<Code>,
}

impl<M: Deref<Target = Member>> Account<M> {
    pub fn begin(member: M, method: usize) -> Self {
        member.metrics.methods[method].started.inc();
        Account {
            member,
            method,
            code: Cell::new(Code::Canceled),
        }
    }

    pub fn received(&self, bytes: usize) {
        self.method().received.inc();
        self.member.metrics.grpc_received_bytes.add(bytes as u64);
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
    }
}
