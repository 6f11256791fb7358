//! Compiles `protos/*.proto` into Rust. Pure Rust all the way: no `protoc` needed.
#![allow(
    clippy::disallowed_methods,
    reason = "a build script reads its environment and writes its output"
)]

use std::{env, error::Error, fs, path::PathBuf};

/// Everything else is reached by import.
const ROOTS: [&str; 7] = [
    "raft_internal.proto",
    "leasepb.proto",
    "walpb.proto",
    "snappb.proto",
    "v3lockpb.proto",
    "v3electionpb.proto",
    "health.proto",
];

/// Messages that carry passwords, their hashes, or tokens.
const SECRET: [&str; 6] = [
    ".authpb.User",
    ".etcdserverpb.AuthenticateRequest",
    ".etcdserverpb.AuthenticateResponse",
    ".etcdserverpb.AuthUserAddRequest",
    ".etcdserverpb.AuthUserChangePasswordRequest",
    ".etcdserverpb.InternalAuthenticateRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=protos");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let files = protox::compile(ROOTS, ["protos"])?;

    // The tests compare the hand-kept method table with what the services declare.
    fs::write(out.join("methods.txt"), methods(&files))?;

    prost_build::Config::new()
        // Decoding from `Bytes` then shares the input instead of copying it.
        .bytes(["."])
        // Iteration order must not depend on a hasher.
        .btree_map(["."])
        // Large and met in old logs only; inline it would double every request.
        .boxed(".etcdserverpb.InternalRaftRequest.v2")
        // `src/debug.rs` has what is safe to print.
        .skip_debug(SECRET)
        .out_dir(&out)
        .compile_fds(files)?;
    Ok(())
}

/// One line per method: full path, then whether client and server stream.
fn methods(files: &protox::prost_reflect::prost_types::FileDescriptorSet) -> String {
    let mut text = String::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                text += &format!(
                    "/{}.{}/{} {} {}\n",
                    file.package(),
                    service.name(),
                    method.name(),
                    method.client_streaming(),
                    method.server_streaming()
                );
            }
        }
    }
    text
}
