//! What is held against the rules: a request, or a tunnel.

use std::borrow::Cow;
use std::sync::OnceLock;

use http::HeaderMap;
use http::uri::PathAndQuery;

use super::path;
use crate::headers;
use crate::host::Host;
use crate::target::{Form, Target};

/// A request or tunnel that a policy is asked about.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) host: &'a Host,
    /// The host as text.
    pub(crate) name: Cow<'a, str>,
    pub(crate) port: u16,
    /// `None` for a tunnel, in which the proxy sees no request.
    pub(crate) call: Option<Call<'a>>,
}

/// The parts of a request that rules speak of.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    /// The path as it is sent, without the query.
    pub(crate) path: &'a str,
    headers: Option<&'a HeaderMap>,
    plain: OnceLock<Option<Cow<'a, str>>>,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(
        target: &'a Target,
        method: &'a str,
        path: &'a PathAndQuery,
        headers: Option<&'a HeaderMap>,
    ) -> Self {
        let call =
            (target.form != Form::Connect).then(|| Call { method, path: path.path(), headers, plain: OnceLock::new() });
        Self { host: &target.host, name: target.host.text(), port: target.port, call }
    }
}

impl Call<'_> {
    /// The path, decoded; `None` if servers could read it differently.
    pub(crate) fn plain(&self) -> Option<&str> {
        self.plain.get_or_init(|| path::plain(self.path)).as_deref()
    }

    /// Whether a header asks the server for another method than the request's own.
    pub(crate) fn overrides_method(&self) -> bool {
        self.headers.is_some_and(headers::overrides_method)
    }

    /// Whether a header asks the server for another path than the request's own.
    pub(crate) fn overrides_path(&self) -> bool {
        self.headers.is_some_and(headers::overrides_path)
    }
}
