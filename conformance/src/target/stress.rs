//! Load beside a run (`--stress`): a verdict that depends on how busy the machine is would be none.

use std::path::Path;
use std::time::Duration;

use super::process::{Process, Program};
use crate::harness::run::Run;

/// Keeps a processor busy.
const BUSY: &str = "while :; do :; done";
/// Writes 64 MiB to the disk, again and again.
const WRITE: &str = "trap 'kill $!; wait; exit 0' TERM; while :; do dd if=/dev/zero of=load bs=1M count=64 conv=fsync 2>/dev/null & wait $!; done";
/// How long a process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The processes of the load.
#[derive(Debug)]
pub struct Stress(Vec<Process>);

impl Stress {
    /// The factor for deadlines under load, unless another is given: two processes share a processor, and the disk is slow.
    pub const PATIENCE: f64 = 3.0;

    /// Starts a busy process for each processor, and one that writes into the run's directory.
    ///
    /// # Errors
    /// One of them cannot be started.
    pub fn begin(run: &Run) -> anyhow::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let lines = std::iter::repeat_n(BUSY, processors).chain([WRITE]);
        let processes = lines.map(|line| {
            let mut program = Program::new(Path::new("/bin/sh"), ["-c", line]);
            program.env.insert("PATH".to_owned(), "/usr/bin:/bin".to_owned());
            program.dir = Some(run.dir().to_owned());
            Process::start(&program, &run.id, &run.dir().join("load.log"))
        });
        Ok(Self(processes.collect::<Result<_, _>>()?))
    }

    /// Stops them.
    ///
    /// # Errors
    /// One had to be killed.
    pub async fn end(self) -> anyhow::Result<()> {
        for process in &self.0 {
            process.stop(STOP_LIMIT).await.map_err(|failure| anyhow::anyhow!("the load: {failure}"))?;
        }
        Ok(())
    }
}
