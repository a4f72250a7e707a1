//! Connections on which scenarios write HTTP themselves, for requests that no client would send: half of one, or one that never ends.

use http::Method;
use tokio::net::TcpStream;

use super::http::Api;
use crate::harness::failure::Failure;

impl Api {
    /// The deployment's host and port, and the path before its own.
    fn place(&self) -> Result<(&str, &str), Failure> {
        let base = self.base();
        let Some(rest) = base.strip_prefix("http://") else {
            return Err(Failure::could_not_run(format!(
                "writes HTTP itself, which needs http://, and the target is {base}"
            )));
        };
        Ok(rest.find('/').map_or((rest, ""), |at| rest.split_at(at)))
    }

    /// The deployment's host and port.
    ///
    /// # Errors
    /// Could not run: it speaks TLS.
    pub fn authority(&self) -> Result<&str, Failure> {
        Ok(self.place()?.0)
    }

    /// The path that the deployment has for one of the contract, as in a request's first line.
    ///
    /// # Errors
    /// As [`Api::authority`].
    pub fn target_path(&self, path: &str) -> Result<String, Failure> {
        Ok(format!("{}{}", self.place()?.1, self.speech.routes.target(path)))
    }

    /// A connection to the deployment.
    ///
    /// # Errors
    /// As [`Api::authority`], or nobody accepts it.
    pub async fn connect(&self) -> Result<TcpStream, Failure> {
        let authority = self.authority()?;
        let port = if authority.ends_with(']') || !authority.contains(':') { ":80" } else { "" };
        Ok(TcpStream::connect(format!("{authority}{port}")).await?)
    }

    /// The beginning of a request's head, as any other request of this client has it: its first line, the host and the key. The empty line
    /// that ends a head is left to the caller.
    ///
    /// # Errors
    /// As [`Api::authority`].
    pub fn head_of(&self, method: &Method, path: &str) -> Result<String, Failure> {
        let key = self.key_header().map_or(String::new(), |(name, value)| format!("{name}: {value}\r\n"));
        Ok(format!("{method} {} HTTP/1.1\r\nHost: {}\r\n{key}", self.target_path(path)?, self.authority()?))
    }
}
