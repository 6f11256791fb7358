//! A walk over all rows of a view that may rest anywhere: a snapshot on its way to another member.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use storage::fault::Fault;
use storage::segments::Revision;

use crate::mvcc::compaction::Survivors;
use crate::view::{BUCKETS, ReadView};

/// What [`ReadView::rows`] visits, in slices. Holds the view, and with it the files that it needs, until it is dropped.
///
/// In memory: the revisions below the compaction that are still data (16 bytes each), and the rows of one small table.
pub struct RowWalk {
    view: ReadView,
    /// Where in [`BUCKETS`] the walk is.
    bucket: usize,
    /// Rows of the current bucket that are still to be visited, unless it is `key`.
    small: VecDeque<(Vec<u8>, Vec<u8>)>,
    survivors: Survivors,
    /// The next row of `key` has at least this revision.
    next: Revision,
}

impl RowWalk {
    /// A walk from the first row on.
    #[must_use]
    pub fn new(view: ReadView) -> RowWalk {
        RowWalk {
            bucket: 0,
            small: view.small_rows(0).into(),
            survivors: view.reader().survivors(),
            next: Revision::default(),
            view,
        }
    }

    /// The view that is walked.
    #[must_use]
    pub fn view(&self) -> &ReadView {
        &self.view
    }

    /// Visits the next rows: at least one if any is left, and then until their keys and values are `bytes_max` or more. True if
    /// more rows may be left.
    ///
    /// # Errors
    /// A fault, if a record cannot be read.
    pub fn visit(
        &mut self,
        bytes_max: usize,
        mut visit: impl FnMut(&'static str, &[u8], &[u8]),
    ) -> Result<bool, Fault> {
        let mut bytes = 0;
        while self.bucket < BUCKETS.len() {
            let name = BUCKETS[self.bucket];
            let mut counted = |key: &[u8], value: &[u8]| {
                visit(name, key, value);
                bytes += key.len() + value.len();
                bytes >= bytes_max
            };
            let is_full = if name == "key" {
                self.keys(&mut counted)?
            } else {
                self.small(&mut counted)
            };
            if is_full {
                return Ok(true);
            }
            self.bucket += 1;
            if self.bucket < BUCKETS.len() {
                self.small = self.view.small_rows(self.bucket).into();
            }
        }
        Ok(false)
    }

    /// True if the slice is full.
    fn small(&mut self, visit: &mut impl FnMut(&[u8], &[u8]) -> bool) -> bool {
        while let Some((key, value)) = self.small.pop_front() {
            if visit(&key, &value) {
                return true;
            }
        }
        false
    }

    fn keys(&mut self, visit: &mut impl FnMut(&[u8], &[u8]) -> bool) -> Result<bool, Fault> {
        let (mut next, mut is_full) = (self.next, false);
        self.view
            .reader()
            .rows_from(self.next, &mut self.survivors, |row| {
                next = Revision {
                    sub: row.revision.sub + 1,
                    ..row.revision
                };
                let (key, size) = row.key();
                is_full = visit(&key[..size], &row.kv);
                match is_full {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
        self.next = next;
        Ok(is_full)
    }
}
