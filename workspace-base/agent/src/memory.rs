//! The container's memory, in which its files are too: how much there is, and what the kernel has killed for want of it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::LazyLock;

/// Room for the CLI that files may not take up, in bytes: it needs about 250 MiB, and its tools need some too. A small container
/// reserves half of its memory.
const RESERVE: u64 = 384 << 20;
/// Directories whose files are in memory.
const IN_MEMORY: [&str; 3] = [nagaya_protocol::WORKSPACE_DIR, "/home/appuser", "/tmp"];

/// Where the kernel counts what it has killed (cgroup v2: `memory.events`; v1: `memory.oom_control`). It stays open, as it is read with every
/// line of the CLI's output.
static COUNTS: LazyLock<Option<fs::File>> = LazyLock::new(|| {
    let open = |path: &&str| fs::File::open(path).ok().filter(|file| killed(file).is_some());
    ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"].iter().find_map(open)
});

/// How many processes of the container the kernel has killed for want of memory; 0 where it does not say.
pub(crate) fn kills() -> u64 {
    COUNTS.as_ref().and_then(killed).unwrap_or(0)
}

/// The count in a file of the kernel's, which is written anew for each reading.
fn killed(counts: &fs::File) -> Option<u64> {
    let mut text = [0; 1024];
    let length = counts.read_at(&mut text, 0).ok()?;
    field(std::str::from_utf8(&text[..length]).ok()?, "oom_kill")
}

/// This process's place in the order in which the kernel kills for want of memory (proc(5)).
const OOM_ORDER: &str = "/proc/self/oom_score_adj";

/// While it exists, processes that are started are killed before this one, the container's first: without it everything ends.
#[derive(Debug)]
pub(crate) struct KilledFirst {
    own: Option<String>,
}

impl KilledFirst {
    pub(crate) fn begin() -> Self {
        let own = fs::read_to_string(OOM_ORDER).ok();
        if let Err(error) = fs::write(OOM_ORDER, "500") {
            tracing::warn!(%error, "the CLI is not killed before the agent if memory is used up");
        }
        Self { own }
    }
}

impl Drop for KilledFirst {
    fn drop(&mut self) {
        // Lowering it to what it was needs no privilege.
        if let Some(own) = &self.own
            && let Err(error) = fs::write(OOM_ORDER, own.trim())
        {
            tracing::warn!(%error, "the agent may be killed as early as the CLI if memory is used up");
        }
    }
}

/// The value of a line `NAME VALUE`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The container's memory limit in bytes; `None` where there is none.
fn limit() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))?;
    // Without a limit, version 1 shows the largest number of pages (cgroup-v1/memory.rst).
    (limit < 1 << 60).then_some(limit)
}

/// Bytes that files in memory take up.
fn files() -> u64 {
    files_in(&IN_MEMORY)
}

/// Bytes that the files of those of these file systems take up that are in memory.
fn files_in(directories: &[&str]) -> u64 {
    let used = |path: &&str| {
        let stat = rustix::fs::statvfs(*path).ok()?;
        let kind = rustix::fs::statfs(*path).ok()?.f_type;
        (kind == TMPFS_MAGIC).then(|| (stat.f_blocks - stat.f_bfree) * stat.f_frsize)
    };
    directories.iter().filter_map(used).sum()
}

/// The type of a memory file system (statfs(2), `TMPFS_MAGIC`).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Says that the container's memory was used up, and by what.
pub(crate) fn used_up() -> String {
    used_up_with(limit(), files())
}

fn used_up_with(limit: Option<u64>, files: u64) -> String {
    let limit = limit.map_or_else(|| "its limit".into(), mib);
    format!(
        "the workspace's memory is used up, and a process of the run was killed: {limit} (CONTAINER_MEMORY), of which files take {}",
        mib(files)
    )
}

/// Why `more` bytes of files would leave the CLI too little memory; `None` if they fit.
pub(crate) fn too_full_for(more: u64) -> Option<String> {
    too_full_with(limit()?, files(), more)
}

fn too_full_with(limit: u64, files: u64, more: u64) -> Option<String> {
    let most = limit - RESERVE.min(limit / 2);
    (files.saturating_add(more) > most).then(|| {
        format!(
            "files are kept in the workspace's memory: of {} (CONTAINER_MEMORY) they may take {}, they take {}, and this one needs {}",
            mib(limit),
            mib(most),
            mib(files),
            mib(more)
        )
    })
}

/// Whether a path's file system is one of those that are counted.
pub(crate) fn counts(path: &Path) -> bool {
    IN_MEMORY.iter().any(|directory| path.starts_with(directory))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_kills_is_found_in_both_versions() {
        assert_eq!(field("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n", "oom_kill"), Some(3));
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "oom_kill"), Some(4));
        assert_eq!(field("oom_kill_disable 0\n", "oom_kill"), None);
    }
    #[test]
    fn files_may_take_all_but_the_reserve_or_half_of_a_small_container() {
        const MIB: u64 = 1 << 20;
        for (limit, most) in
            [(256 * MIB, 128 * MIB), (768 * MIB, 384 * MIB), (769 * MIB, 385 * MIB), (2048 * MIB, 1664 * MIB)]
        {
            assert_eq!(too_full_with(limit, 0, most), None, "{limit}");
            assert_eq!(too_full_with(limit, most, 0), None, "{limit}");
            assert!(too_full_with(limit, 0, most + 1).is_some(), "{limit}");
            assert!(too_full_with(limit, most, 1).is_some(), "{limit}");
            assert!(too_full_with(limit, most, u64::MAX).is_some(), "{limit}");
        }
        assert_eq!(
            too_full_with(512 * MIB, 156 * MIB - 1, 101 * MIB).as_deref(),
            Some(
                "files are kept in the workspace's memory: of 512 MiB (CONTAINER_MEMORY) they may take 256 MiB, they take 156 MiB, \
                 and this one needs 101 MiB"
            )
        );
    }

    #[test]
    fn used_up_memory_is_told_with_what_files_take_of_it() {
        let told = |limit: &str, files: &str| {
            format!(
                "the workspace's memory is used up, and a process of the run was killed: {limit} (CONTAINER_MEMORY), of which files take \
                 {files}"
            )
        };
        assert_eq!(used_up_with(Some(1 << 30), (7 << 20) + 1), told("1024 MiB", "8 MiB"));
        assert_eq!(used_up_with(None, 0), told("its limit", "0 MiB"));
    }

    #[test]
    fn files_of_all_file_systems_in_memory_count_and_of_no_other() {
        let here = tempfile::tempdir_in("/dev/shm").expect("every Linux has this file system in memory");
        fs::write(here.path().join("x"), vec![0; 1 << 20]).expect("writes");
        let place = here.path().to_str().expect("text");
        // Others may write there meanwhile: compared are sums between two equal readings.
        let began = std::time::Instant::now();
        let (one, both) = loop {
            let (before, both, after) = (files_in(&[place]), files_in(&[place, "/proc", place]), files_in(&[place]));
            if before == after {
                break (before, both);
            }
            assert!(began.elapsed() < std::time::Duration::from_secs(10), "it changes all the time");
        };
        assert!(one >= 1 << 20);
        assert_eq!(both, 2 * one);
        for path in ["/workspace", "/workspace/a", "/home/appuser/x", "/tmp/x"] {
            assert!(counts(Path::new(path)), "{path}");
        }
        for path in ["/", "/workspaces", "/home", "/var/tmp/x", "workspace"] {
            assert!(!counts(Path::new(path)), "{path}");
        }
    }
}
