//! Images that come back from an envelope, and those that do not.

use std::io::Write;
use std::sync::LazyLock;

use cryonaut_envelope::{
    EnvelopeError, ExposeSecret, Form, Identity, Keys, Lock, Recipients, Secret, Wrapping,
    identities, unwrap,
};

/// What the reader has: a key and a passphrase.
struct Own(Option<String>, Option<&'static str>);

static KEY: LazyLock<String> = LazyLock::new(fresh_key);

fn fresh_key() -> String {
    age::x25519::Identity::generate()
        .to_string()
        .expose_secret()
        .to_owned()
}

impl Keys for Own {
    fn identities(&self) -> Result<Vec<Identity>, EnvelopeError> {
        self.0
            .as_ref()
            .map_or(Ok(Vec::new()), |key| identities("key", key.as_bytes()))
    }

    fn passphrase(&self) -> Result<Secret, EnvelopeError> {
        self.1
            .map(|text| Secret::from(text.to_owned()))
            .ok_or(EnvelopeError::NeedsPassphrase("none".into()))
    }
}

fn image() -> Vec<u8> {
    let mut image = b"CRYONAUT".to_vec();
    image.extend((0..200_000_u32).map(|number| (number.wrapping_mul(number) >> 5) as u8));
    image
}

fn wrap(lock: Option<Lock>, form: Form) -> Vec<u8> {
    let mut out = Vec::new();
    let mut wrapped = Wrapping { lock, form }.begin(&mut out).unwrap();
    wrapped.write_all(&image()).unwrap();
    wrapped.finish().unwrap();
    out
}

fn open(bytes: &[u8], keys: &Own) -> Result<Vec<u8>, EnvelopeError> {
    let mut out = Vec::new();
    unwrap(bytes, &mut out, keys).map(|()| out)
}

fn to_key() -> Lock {
    let mut recipients = Recipients::default();
    let key: age::x25519::Identity = KEY.parse().unwrap();
    recipients.add(&key.to_public().to_string()).unwrap();
    Lock::Recipients(recipients)
}

fn by_passphrase() -> Lock {
    Lock::Passphrase(Secret::from("correct horse".to_owned()))
}

const NONE: Own = Own(None, None);

#[test]
fn every_form_comes_back() {
    let keys = Own(Some(KEY.clone()), Some("correct horse"));
    for form in [Form::Binary, Form::Text] {
        for lock in [None, Some(to_key()), Some(by_passphrase())] {
            let bytes = wrap(lock, form);
            assert_eq!(open(&bytes, &keys).unwrap(), image());
        }
    }
}

#[test]
fn mail_may_do_to_it_what_mail_does() {
    for lock in [None, Some(to_key())] {
        let keys = Own(Some(KEY.clone()), None);
        let text = String::from_utf8(wrap(lock, Form::Text)).unwrap();
        assert!(text.lines().all(|line| line.len() <= 64));
        let quoted: String = text.lines().map(|line| format!("> > {line}\r\n")).collect();
        let trimmed: String = text.lines().map(|line| format!(">> {line} \n")).collect();
        let folded: String = text
            .lines()
            .map(|line| match line.len() {
                64 if !line.starts_with('-') => format!("{}\n{}\n", &line[..50], &line[50..]),
                _ => format!("{line}\n\n"),
            })
            .collect();
        for changed in [
            format!("Hello,\n\nhere it is:\n{text}\nYours,\n-- \nAda\n"),
            text.replace('\n', "\r\n"),
            format!("On Monday Ada wrote:\r\n{quoted}"),
            trimmed,
            folded,
        ] {
            assert_eq!(open(changed.as_bytes(), &keys).unwrap(), image());
        }
    }
}

#[test]
fn what_is_cut_off_or_changed_is_noticed() {
    let keys = Own(Some(KEY.clone()), None);
    for lock in [None, Some(to_key())] {
        let text = wrap(lock.clone(), Form::Text);
        for cut in [100, text.len() / 2, text.len() - 40] {
            let error = open(&text[..cut], &keys).unwrap_err();
            assert!(matches!(error, EnvelopeError::CutOff { .. }), "{error:?}");
        }
        let mut changed = text.clone();
        let place = text.len() / 2;
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        assert!(open(&changed, &keys).is_err());
        // A line is missing.
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let without = [&lines[..30], &lines[31..]].concat().concat();
        assert!(open(&without, &keys).is_err());
        changed[place] = b'!';
        let error = open(&changed, &keys).unwrap_err();
        assert!(error.to_string().contains("line"), "{error}");
    }
    let bytes = wrap(Some(to_key()), Form::Binary);
    for cut in [60, 300, bytes.len() - 5] {
        let error = open(&bytes[..cut], &keys).unwrap_err();
        assert!(!error.is_about_keys(), "{cut}: {error:?}");
    }
}

#[test]
fn without_the_right_key_it_stays_shut() {
    let bytes = wrap(Some(to_key()), Form::Binary);
    assert!(matches!(
        open(&bytes, &NONE),
        Err(EnvelopeError::NeedsIdentity)
    ));
    assert!(matches!(
        open(&bytes, &Own(Some(fresh_key()), None)),
        Err(EnvelopeError::NoMatchingKey)
    ));
    let bytes = wrap(Some(by_passphrase()), Form::Binary);
    assert!(matches!(
        open(&bytes, &Own(None, Some("wrong"))),
        Err(EnvelopeError::WrongPassphrase)
    ));
    assert!(matches!(
        open(&bytes, &NONE),
        Err(EnvelopeError::NeedsPassphrase(_))
    ));
}

#[test]
fn what_is_none_is_said_to_be_none() {
    for bytes in [&b""[..], b"hello", &[0; 5000], &[b'x'; 3 << 20]] {
        assert!(matches!(open(bytes, &NONE), Err(EnvelopeError::NoImage)));
    }
    let mut recipients = Recipients::default();
    for wrong in ["", "age1", "ssh-ed25519 AAAA", "# nothing"] {
        assert!(recipients.add(wrong).is_err(), "{wrong:?}");
    }
    assert!(identities("file", &b"nonsense"[..]).is_err());
}
