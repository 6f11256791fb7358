//! Every gRPC method served: one table, in the order of the services' declarations.
//!
//! Routing finds a method here, and metrics are registered at zero from here. The kinds'
//! names are the `grpc_type` labels that dashboards filter on.

/// Which sides of a call stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One request, one response.
    Unary,
    /// Many requests, one response. No method of etcd's is of this kind.
    ClientStream,
    /// One request, many responses.
    ServerStream,
    /// Many of both.
    BidiStream,
}

impl Kind {
    /// The `grpc_type` label.
    pub const fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ClientStream => "client_stream",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }

    /// Whether the client sends more than one message.
    pub const fn client_streams(self) -> bool {
        matches!(self, Kind::ClientStream | Kind::BidiStream)
    }

    /// Whether the server sends more than one message.
    pub const fn server_streams(self) -> bool {
        matches!(self, Kind::ServerStream | Kind::BidiStream)
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method {
    /// The HTTP/2 path: `/etcdserverpb.KV/Range`.
    pub path: &'static str,
    /// The `grpc_service` label: `etcdserverpb.KV`.
    pub service: &'static str,
    /// The `grpc_method` label: `Range`.
    pub name: &'static str,
    /// Which sides stream.
    pub kind: Kind,
}

/// The method of a path, if it is one of ours.
pub fn find(path: &str) -> Option<&'static Method> {
    ALL.iter().find(|method| method.path == path)
}

/// Makes [`ALL`] of the services' method lists.
macro_rules! table {
    ($($service:literal { $($name:ident $kind:ident,)* })*) => {
        /// The whole table.
        pub static ALL: &[Method] = &[$($(
            Method {
                path: concat!("/", $service, "/", stringify!($name)),
                service: $service,
                name: stringify!($name),
                kind: Kind::$kind,
            },
        )*)*];
    };
}

table! {
    "etcdserverpb.KV" {
        Range Unary,
        RangeStream ServerStream,
        Put Unary,
        DeleteRange Unary,
        Txn Unary,
        Compact Unary,
    }
    "etcdserverpb.Watch" {
        Watch BidiStream,
    }
    "etcdserverpb.Lease" {
        LeaseGrant Unary,
        LeaseRevoke Unary,
        LeaseKeepAlive BidiStream,
        LeaseTimeToLive Unary,
        LeaseLeases Unary,
    }
    "etcdserverpb.Cluster" {
        MemberAdd Unary,
        MemberRemove Unary,
        MemberUpdate Unary,
        MemberList Unary,
        MemberPromote Unary,
    }
    "etcdserverpb.Maintenance" {
        Alarm Unary,
        Status Unary,
        Defragment Unary,
        Hash Unary,
        HashKV Unary,
        Snapshot ServerStream,
        MoveLeader Unary,
        Downgrade Unary,
    }
    "etcdserverpb.Auth" {
        AuthEnable Unary,
        AuthDisable Unary,
        AuthStatus Unary,
        Authenticate Unary,
        UserAdd Unary,
        UserGet Unary,
        UserList Unary,
        UserDelete Unary,
        UserChangePassword Unary,
        UserGrantRole Unary,
        UserRevokeRole Unary,
        RoleAdd Unary,
        RoleGet Unary,
        RoleList Unary,
        RoleDelete Unary,
        RoleGrantPermission Unary,
        RoleRevokePermission Unary,
    }
    "v3lockpb.Lock" {
        Lock Unary,
        Unlock Unary,
    }
    "v3electionpb.Election" {
        Campaign Unary,
        Proclaim Unary,
        Leader Unary,
        Observe ServerStream,
        Resign Unary,
    }
    "grpc.health.v1.Health" {
        Check Unary,
        List Unary,
        Watch ServerStream,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the services in `protos/` declare, written by the build script.
    const DECLARED: &str = include_str!(concat!(env!("OUT_DIR"), "/methods.txt"));

    #[test]
    fn the_table_is_what_the_services_declare() {
        let table: Vec<String> = ALL
            .iter()
            .map(|Method { path, kind, .. }| {
                format!("{path} {} {}", kind.client_streams(), kind.server_streams())
            })
            .collect();
        let declared: Vec<&str> = DECLARED.lines().collect();
        assert_eq!(table, declared);
    }

    #[test]
    fn every_service_has_as_many_methods_as_in_etcd_3_7() {
        let count = |service| {
            ALL.iter()
                .filter(|method| method.service == service)
                .count()
        };
        assert_eq!(count("etcdserverpb.KV"), 6);
        assert_eq!(count("etcdserverpb.Watch"), 1);
        assert_eq!(count("etcdserverpb.Lease"), 5);
        assert_eq!(count("etcdserverpb.Cluster"), 5);
        assert_eq!(count("etcdserverpb.Maintenance"), 8);
        assert_eq!(count("etcdserverpb.Auth"), 17);
        assert_eq!(count("v3lockpb.Lock"), 2);
        assert_eq!(count("v3electionpb.Election"), 5);
        assert_eq!(count("grpc.health.v1.Health"), 3);
        assert_eq!(ALL.len(), 52);
    }

    #[test]
    fn a_method_is_found_by_its_exact_path_only() {
        let method = find("/etcdserverpb.Watch/Watch").expect("it is in the table");
        assert_eq!(method.service, "etcdserverpb.Watch");
        assert_eq!(method.name, "Watch");
        assert_eq!(method.kind.label(), "bidi_stream");
        assert_eq!(find("/etcdserverpb.Watch/watch"), None);
        assert_eq!(find("/etcdserverpb.Watch/Watch/"), None);
        assert_eq!(find(""), None);
    }
}
