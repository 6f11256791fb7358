//! The one binary: the server by default; its first word or its own name picks another persona.

fn main() {}
