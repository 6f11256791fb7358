//! Judges a history.
pub mod history;
pub mod model;
