//! Hashes of passwords, as requests bring them.

use bcrypt::Version;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// etcd's default, and what members before 3.5 used for want of a setting.
const COST: u32 = 10;
/// bcrypt looks at no more, and etcd's refuses longer passwords.
const PASSWORD_BYTES_MAX: usize = 72;

/// The hash to store, or `None` if the request has none that makes sense.
///
/// Since 3.5 the edge hashes, and the entry has the hash in base64. Members before that put the password itself into their log and
/// each hashes it when it applies the entry, with a salt that each draws for itself, so that no two have the same bytes; what counts is that
/// all accept the same password. Nothing is drawn here, so the salt comes from the entry: a salt need not be secret, only different
/// from others, and no other entry has this index and this name. Source: upstream `server/auth/store.go`, `selectPassword`.
pub(super) fn to_store(password: &str, hashed: &str, name: &str, index: u64) -> Option<Vec<u8>> {
    if password.is_empty() || !hashed.is_empty() {
        return decode(hashed);
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return None;
    }
    let hash = bcrypt::hash_with_salt(password, COST, salt(name, index)).ok()?;
    Some(hash.format_for_version(Version::TwoA).into_bytes())
}

/// As Go decodes it: line ends are passed over, and the bits that the padding leaves over may be anything.
fn decode(hashed: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    let plain: Vec<u8> = hashed
        .bytes()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .collect();
    LENIENT.decode(plain).ok()
}

fn salt(name: &str, index: u64) -> [u8; 16] {
    use sha1::{Digest, Sha1};
    let digest = Sha1::new()
        .chain_update(index.to_be_bytes())
        .chain_update(name.as_bytes())
        .finalize();
    let mut salt = [0; 16];
    salt.copy_from_slice(&digest[..16]);
    salt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_decoded_as_go_does() {
        assert_eq!(to_store("", "", "u", 1), Some(vec![]));
        assert_eq!(to_store("", "YQ==", "u", 1), Some(b"a".to_vec()));
        assert_eq!(to_store("ignored", "YR==", "u", 1), Some(b"a".to_vec()));
        assert_eq!(to_store("", "Y\r\nQ==\n", "u", 1), Some(b"a".to_vec()));
        for wrong in ["YQ", "YQ=", "Y", "*", "YQ==x"] {
            assert_eq!(to_store("", wrong, "u", 1), None, "{wrong}");
        }
    }

    #[test]
    fn a_password_of_an_old_member_is_hashed_alike_by_everybody_and_accepted() {
        let hash = to_store("secret", "", "u", 7).expect("a hash");
        assert_eq!(to_store("secret", "", "u", 7).as_ref(), Some(&hash));
        assert_ne!(to_store("secret", "", "u", 8).as_ref(), Some(&hash));
        let text = String::from_utf8(hash).expect("a hash is text");
        assert!(text.starts_with("$2a$10$"), "{text}");
        assert!(bcrypt::verify("secret", &text).expect("a hash"));
        assert!(!bcrypt::verify("Secret", &text).expect("a hash"));
        assert_eq!(to_store(&"x".repeat(73), "", "u", 7), None);
    }
}
