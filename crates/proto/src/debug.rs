//! `Debug` for messages that carry secrets: requests end up in logs and panic messages.

use std::fmt;

use crate::{authpb, etcdserverpb};

/// Prints the given fields and `..` for the rest.
macro_rules! printable {
    ($($message:path { $($field:ident),* })*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    )*};
}

printable! {
    authpb::User { name, roles, options }
    etcdserverpb::AuthenticateRequest { name }
    etcdserverpb::AuthenticateResponse { header }
    etcdserverpb::AuthUserAddRequest { name, options }
    etcdserverpb::AuthUserChangePasswordRequest { name }
    etcdserverpb::InternalAuthenticateRequest { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed_not_even_inside_other_messages() {
        let secret = "hunter2".to_owned();
        let request = etcdserverpb::InternalRaftRequest {
            authenticate: Some(etcdserverpb::InternalAuthenticateRequest {
                name: "alice".into(),
                password: secret.clone(),
                simple_token: secret.clone(),
            }),
            auth_user_add: Some(etcdserverpb::AuthUserAddRequest {
                name: "bob".into(),
                password: secret.clone(),
                options: None,
                hashed_password: secret.clone(),
            }),
            auth_user_change_password: Some(etcdserverpb::AuthUserChangePasswordRequest {
                name: "carol".into(),
                password: secret.clone(),
                hashed_password: secret.clone(),
            }),
            ..Default::default()
        };
        let client = etcdserverpb::AuthenticateRequest {
            name: "dave".into(),
            password: secret.clone(),
        };
        let answer = etcdserverpb::AuthenticateResponse {
            header: None,
            token: secret.clone(),
        };
        let user = authpb::User {
            name: "erin".into(),
            password: secret.clone().into(),
            ..Default::default()
        };

        let printed = format!("{request:?} {client:?} {answer:?} {user:?}");
        assert!(!printed.contains(&secret), "{printed}");
        for name in ["alice", "bob", "carol", "dave", "erin"] {
            assert!(printed.contains(name), "{name} in {printed}");
        }
    }
}
