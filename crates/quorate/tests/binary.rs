//! The binary as it is built. That this test exists also makes cargo build it before the suites of `conformance` run it.

use std::process::Command;

#[test]
fn it_says_which_etcd_it_implements() {
    let done = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .arg("--version")
        .output()
        .expect("it starts");
    assert!(done.status.success(), "{done:?}");
    let text = String::from_utf8(done.stdout).expect("UTF-8");
    assert!(text.starts_with("etcd Version: 3."), "{text}");
}
