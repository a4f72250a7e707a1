//! Hides the credential of a request in its response: a target may repeat what it was sent, most often in an error page.
//!
//! The secret is replaced by as many `*`, as it is and in the forms in which programs write texts into pages, JSON and addresses. Only
//! bytes that may begin a secret are held back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};
use memchr::memmem;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::answer::Refusal;

/// Length in bytes below which a text is not hidden: it would be found by chance, and much of a page would be lost.
const SHORTEST: usize = 8;
/// What programs leave as it is in addresses (RFC 3986, "unreserved").
const ADDRESS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Takes the place of every byte.
const HIDDEN: u8 = b'*';

/// Hides secrets in one response.
#[derive(Default)]
pub(crate) struct Redactor {
    secrets: Vec<Zeroizing<Vec<u8>>>,
    /// The last bytes that have arrived, which may begin a secret.
    held: BytesMut,
    /// How many of these belong to a secret that has been found.
    found: usize,
}

impl Redactor {
    /// Hides what a header's value holds: all of it but `around`, the lengths of what stands before and behind the secret. Where nothing
    /// does, a scheme such as `Bearer` is no part of the secret.
    pub(crate) fn of_header(value: &HeaderValue, around: (usize, usize)) -> Self {
        let mut this = Self::default();
        let Ok(text) = value.to_str() else { return this };
        let behind_scheme = |(_, rest): &(&str, &str)| !rest.contains(' ') && rest.len() >= SHORTEST;
        let secret = match around {
            (0, 0) => text.split_once(' ').filter(behind_scheme).map_or(text, |(_, rest)| rest),
            (before, after) => text.get(before..text.len().saturating_sub(after)).unwrap_or(text),
        };
        this.hide(secret);
        if text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic "))
            && let Ok(both) = STANDARD.decode(secret).map(Zeroizing::new)
            && let Ok(both) = std::str::from_utf8(&both)
            && let Some((_, password)) = both.split_once(':')
        {
            this.hide(password);
        }
        this
    }

    /// Hides the keys of a signature, and the signature itself, with which the same request could be made again.
    pub(crate) fn of_keys(keys: &aws_credential_types::Credentials, signed: &HeaderMap) -> Self {
        let mut this = Self::default();
        this.hide(keys.access_key_id());
        this.hide(keys.secret_access_key());
        this.hide(keys.session_token().unwrap_or_default());
        let authorization = signed.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        this.hide(authorization.and_then(|text| text.rsplit_once("Signature=")).map_or("", |(_, signature)| signature));
        this
    }

    fn hide(&mut self, secret: &str) {
        // Padding (RFC 4648, section 3.2) is often left out.
        let secret = secret.trim_end_matches('=');
        if secret.len() < SHORTEST {
            return;
        }
        let json = serde_json::to_string(secret).map(Zeroizing::new).unwrap_or_default();
        let json = json.trim_matches('"');
        let mut page = Zeroizing::new(String::with_capacity(secret.len()));
        for letter in secret.chars() {
            match letter {
                '&' => page.push_str("&amp;"),
                '<' => page.push_str("&lt;"),
                '>' => page.push_str("&gt;"),
                '"' => page.push_str("&quot;"),
                '\'' => page.push_str("&#39;"),
                other => page.push(other),
            }
        }
        let address = utf8_percent_encode(secret, ADDRESS).to_string();
        let (lower, slashes) = (lower_escapes(&address), json.replace('/', "\\/"));
        let forms = [secret.to_owned(), json.to_owned(), page.to_string(), address, lower, slashes];
        for form in forms.map(|form| Zeroizing::new(form.into_bytes())) {
            if !self.secrets.contains(&form) {
                self.secrets.push(form);
            }
        }
    }

    /// Refuses a response whose body cannot be read, although the target was asked for one that can.
    pub(crate) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
        let coded = headers.get_all(CONTENT_ENCODING).iter();
        let plain = |coding: &HeaderValue| coding.is_empty() || coding.as_bytes().eq_ignore_ascii_case(b"identity");
        match coded.into_iter().all(plain) {
            true => Ok(()),
            false => Err(Refusal::failed(
                "compressed_answer",
                "the target compressed an answer that may repeat the credential; it was asked not to",
            )),
        }
    }

    /// A header's value without secrets; `None` if it has none.
    pub(crate) fn header(&self, value: &[u8]) -> Option<Vec<u8>> {
        let mut hidden = None;
        for (start, end) in self.find(value) {
            hidden.get_or_insert_with(|| value.to_vec())[start..end].fill(HIDDEN);
        }
        hidden
    }

    /// What may be passed on, now that this piece of the body has arrived.
    pub(crate) fn piece(&mut self, data: Bytes) -> Bytes {
        let found = self.find(&data);
        if self.held.is_empty() && found.is_empty() && self.begun(&data) == 0 {
            return data;
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(&data);
        let mut found = self.find(&all);
        found.push((0, std::mem::take(&mut self.found)));
        let keep = all.len() - self.begun(&all);
        for (start, end) in found.into_iter().filter(|(start, _)| *start < keep) {
            all[start..end.min(keep)].fill(HIDDEN);
            // The rest stays as it is, because another secret may begin in it.
            self.found = self.found.max(end.saturating_sub(keep));
        }
        self.held = all.split_off(keep);
        all.freeze()
    }

    /// What is left at the end of the body. Half of a secret, or more, is hidden as well.
    pub(crate) fn rest(&mut self) -> Bytes {
        let mut rest = std::mem::take(&mut self.held);
        let begins = |secret: &Zeroizing<Vec<u8>>| secret.starts_with(&rest) && 2 * rest.len() >= secret.len();
        let hidden = if self.secrets.iter().any(begins) { rest.len() } else { std::mem::take(&mut self.found) };
        for (start, end) in self.find(&rest).into_iter().chain([(0, hidden)]) {
            rest[start..end].fill(HIDDEN);
        }
        rest.freeze()
    }

    /// Where secrets are, from start to end, also where they overlap.
    fn find(&self, data: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for secret in &self.secrets {
            let mut from = 0;
            while let Some(at) = memmem::find(&data[from..], secret) {
                found.push((from + at, from + at + secret.len()));
                from += at + 1;
            }
        }
        found
    }

    /// How many bytes at the end may begin a secret.
    fn begun(&self, data: &[u8]) -> usize {
        let longest = |secret: &Zeroizing<Vec<u8>>| {
            let most = data.len().min(secret.len() - 1);
            (1..=most).rev().find(|length| data[data.len() - length..] == secret[..*length]).unwrap_or(0)
        };
        self.secrets.iter().map(longest).max().unwrap_or(0)
    }
}

/// The same with the digits of escapes in lower case.
fn lower_escapes(text: &str) -> String {
    let mut left = 0;
    let lower = |letter: char| {
        left = if letter == '%' { 3 } else { left };
        left = i32::max(left - 1, -1);
        if left >= 0 { letter.to_ascii_lowercase() } else { letter }
    };
    text.chars().map(lower).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cr/t+&=\"long";

    fn bearer() -> Redactor {
        Redactor::of_header(&HeaderValue::from_str(&format!("Bearer {SECRET}")).expect("a value"), (0, 0))
    }

    /// A body that arrives in pieces of this size, as it is passed on.
    fn passed(mut redactor: Redactor, body: &[u8], step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in body.chunks(step) {
            out.extend_from_slice(&redactor.piece(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&redactor.rest());
        out
    }

    #[test]
    fn every_form_is_hidden_however_a_body_is_split() {
        let json = serde_json::to_string(SECRET).expect("JSON");
        let address = utf8_percent_encode(SECRET, ADDRESS).to_string();
        let forms = [
            SECRET.to_owned(),
            json.trim_matches('"').to_owned(),
            json.trim_matches('"').replace('/', "\\/"),
            "s3cr/t+&amp;=&quot;long".to_owned(),
            address.clone(),
            lower_escapes(&address),
        ];
        assert_eq!(lower_escapes("A%2FB%3d"), "A%2fB%3d");
        for form in forms {
            let body = format!("<p>Bearer {form}</p>s3cr{form}{form} s3cr/t+ and the rest");
            let stars = "*".repeat(form.len());
            let expected = format!("<p>Bearer {stars}</p>s3cr{stars}{stars} s3cr/t+ and the rest");
            for step in 1..=body.len() {
                let out = passed(bearer(), body.as_bytes(), step);
                assert_eq!(String::from_utf8_lossy(&out), expected, "in pieces of {step}");
            }
        }
    }

    #[test]
    fn overlapping_secrets_are_hidden_from_the_first_byte_to_the_last() {
        let value = HeaderValue::from_static("abcabcabc");
        for step in 1..=15 {
            let out = passed(Redactor::of_header(&value, (0, 0)), b"-abcabcabcabc-x", step);
            assert_eq!(String::from_utf8_lossy(&out), "-************-x", "in pieces of {step}");
        }
    }

    #[test]
    fn bytes_that_begin_no_secret_are_passed_on_at_once() {
        let mut redactor = bearer();
        let data = Bytes::from_static(b"event: ping\n\n");
        assert_eq!(redactor.piece(data.clone()).as_ptr(), data.as_ptr(), "not even copied");
        assert_eq!(redactor.piece(Bytes::from_static(b"a s3c")), "a ");
        assert_eq!(redactor.piece(Bytes::from_static(b"ond")), "s3cond");
        assert_eq!(redactor.rest(), "");
    }

    #[test]
    fn a_body_that_ends_within_a_secret_does_not_show_most_of_it() {
        for (length, expected) in [(4, "s3cr"), (7, "*******"), (13, "*************")] {
            assert_eq!(passed(bearer(), &SECRET.as_bytes()[..length], 3), expected.as_bytes(), "{length}");
        }
    }

    #[test]
    fn the_parts_of_each_kind_are_hidden_and_nothing_else() {
        let hidden = |redactor: &Redactor, text: &str| {
            redactor.header(text.as_bytes()).map(|hidden| String::from_utf8_lossy(&hidden).into_owned())
        };
        let template = Redactor::of_header(&HeaderValue::from_static("Token token=\"0123456789\""), (13, 1));
        assert_eq!(hidden(&template, "token=\"0123456789\"").as_deref(), Some("token=\"**********\""));
        assert_eq!(hidden(&template, "Token token="), None);
        let encoded = STANDARD.encode("user:password1");
        let basic = HeaderValue::from_str(&format!("Basic {encoded}")).expect("a value");
        for around in [(0, 0), (6, 0)] {
            let basic = Redactor::of_header(&basic, around);
            assert_eq!(hidden(&basic, "user:password1").as_deref(), Some("user:*********"));
            let unpadded = encoded.trim_end_matches('=');
            assert_eq!(hidden(&basic, &encoded), Some(encoded.replace(unpadded, &"*".repeat(unpadded.len()))));
            assert_eq!(hidden(&basic, unpadded), Some("*".repeat(unpadded.len())));
        }
        let keys = aws_credential_types::Credentials::new(
            "AKIAEXAMPLE1",
            "the/secret/key",
            Some("a session".into()),
            None,
            "t",
        );
        let mut signed = HeaderMap::new();
        signed.insert(
            AUTHORIZATION,
            HeaderValue::from_static("AWS4 Credential=AKIAEXAMPLE1/x, Signature=0123456789abcdef"),
        );
        let keys = Redactor::of_keys(&keys, &signed);
        let shown = "AKIAEXAMPLE1 the/secret/key a session 0123456789abcdef";
        assert!(hidden(&keys, shown).is_some_and(|out| out.bytes().all(|byte| byte == b'*' || byte == b' ')));
        let short = Redactor::of_header(&HeaderValue::from_static("Bearer short"), (7, 0));
        assert_eq!(hidden(&short, "Bearer short"), None);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let of = |codings: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(coding));
            }
            Redactor::check(&headers).is_ok()
        };
        assert!(of(&[]) && of(&["identity"]) && of(&["Identity", "identity"]));
        assert!(!of(&["gzip"]) && !of(&["identity", "br"]) && !of(&["identity, gzip"]));
    }
}
