//! Start of the server, until it is ready for runs.

use std::net::TcpListener;
use std::time::Instant;

use crate::report::{Goal, Report, Table};
use crate::server::Server;
use crate::stage::Stage;
use crate::stats::{Sample, rounds};

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let stage = &*stage;
    let series = rounds(count, vec![("ours", Ok(()))], |_, ()| {
        let dir = tempfile::Builder::new().prefix("nagaya-bench-start-").tempdir()?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let began = Instant::now();
        let mut server = Server::start(&stage.names[1], dir.path(), address, &[])?;
        let ready = server.ready(address);
        let took = began.elapsed().as_secs_f64() * 1e3;
        server.stop()?;
        ready?;
        Ok(Sample { value: took, p99: None })
    });
    report.add(Table {
        id: "start",
        title: "The server: from its start until /health/ready answers 200",
        unit: "ms",
        more_is_better: false,
        note: "The real program with default settings, an empty state directory and an existing image; polled every \
               millisecond. The pool begins to fill meanwhile."
            .into(),
        series,
        goals: vec![Goal::at_most(150.0)],
    });
}
