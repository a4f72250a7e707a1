//! Throughput of one tunnel, in either direction.

use std::io::{Read, Write};
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::net::{Address, Conn};
use crate::origin::{BLOCK, block, order};
use crate::peers::Kind;
use crate::report::{Goal, Report, Table};
use crate::stage::Stage;
use crate::stats::{Sample, rounds};

/// Number of bytes in one measurement.
const BYTES: u64 = 1 << 30;
/// Number of bytes whose content is compared, once for each contender, before anything is measured.
const CONTROL: u64 = 64 << 20;

/// How the tunnel is reached.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// The address dialled leads directly to the origin.
    Straight(Address),
    /// The address dialled is a proxy that opens a tunnel (CONNECT).
    Connect(Address),
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Down,
    Up,
}

pub(crate) fn measure(stage: &mut Stage, count: usize, report: &mut Report) {
    let bulk = stage.doors.bulk;
    let open = |way: &Way| -> Result<Conn> {
        match way {
            Way::Straight(to) => Ok(Conn::open(to)?),
            Way::Connect(to) => {
                let mut conn = Conn::open(to)?;
                conn.tunnel(bulk)?;
                Ok(conn)
            }
        }
    };
    for (id, title, direction) in [
        ("bulk-down", "1 GiB through one tunnel, to the client", Direction::Down),
        ("bulk-up", "1 GiB through one tunnel, from the client", Direction::Up),
    ] {
        if !report.wants(id) {
            continue;
        }
        let ways = [
            ("direct", Ok(Way::Straight(Address::Tcp(bulk)))),
            ("ours", stage.ours().map(Way::Connect)),
            ("socat", stage.peer(Kind::Socat).map(Way::Straight)),
            ("socat, Unix", stage.peer(Kind::SocatUnix).map(Way::Straight)),
            ("squid", stage.peer(Kind::Squid).map(Way::Connect)),
            ("tinyproxy", stage.peer(Kind::Tinyproxy).map(Way::Connect)),
        ];
        let ways = ways.into_iter().map(|(name, way)| {
            let checked = way.and_then(|way| control(open(&way)?, direction).map(|()| way));
            (name, checked)
        });
        let series = rounds(count, ways.collect(), |_, way| {
            let conn = open(way)?;
            let began = Instant::now();
            match direction {
                Direction::Down => down(conn, BYTES, false)?,
                Direction::Up => up(conn, BYTES)?,
            }
            #[allow(clippy::cast_precision_loss, reason = "2^30 has none")]
            let gigabytes = BYTES as f64 / 1e9;
            Ok(Sample { value: gigabytes / began.elapsed().as_secs_f64(), p99: None })
        });
        report.add(Table {
            id,
            title,
            unit: "GB/s",
            more_is_better: true,
            note: "Client, proxy and origin are a process each. ours and \"socat, Unix\" are reached through a Unix socket, \
                   the others over loopback TCP; both socats copy with 256 KiB buffers.".into(),
            series,
            goals: vec![
                Goal::ratio("socat", 1.0),
                Goal::ratio("squid", 1.4),
                Goal::ratio("direct", 0.8),
            ],
        });
    }
}

/// Checks a transfer byte by byte.
fn control(conn: Conn, direction: Direction) -> Result<()> {
    match direction {
        Direction::Down => down(conn, CONTROL, true),
        Direction::Up => up(conn, CONTROL),
    }
}

/// Receives this many bytes, then the origin's own count, then the end of the stream.
pub(crate) fn down(mut conn: Conn, bytes: u64, compare: bool) -> Result<()> {
    conn.write_all(&order(bytes, 0))?;
    let block = block();
    let (mut buffer, mut left) = (vec![0; BLOCK], bytes);
    while left > 0 {
        let read = conn.read(&mut buffer[..usize::try_from(left)?.min(BLOCK)])?;
        ensure!(read > 0, "the tunnel ended {left} bytes early");
        if compare {
            let at = usize::try_from((bytes - left) % BLOCK as u64)?;
            let first = read.min(BLOCK - at);
            let same = buffer[..first] == block[at..at + first] && buffer[first..read] == block[..read - first];
            ensure!(same, "other bytes arrived than were sent, after {} of them", bytes - left);
        }
        left -= read as u64;
    }
    finish(conn, 0)
}

/// Sends this many bytes; the origin answers how many it received.
fn up(mut conn: Conn, bytes: u64) -> Result<()> {
    conn.write_all(&order(0, bytes))?;
    let (block, mut left) = (block(), bytes);
    while left > 0 {
        let piece = usize::try_from(left)?.min(BLOCK);
        conn.write_all(&block[..piece])?;
        left -= piece as u64;
    }
    finish(conn, bytes)
}

fn finish(mut conn: Conn, taken: u64) -> Result<()> {
    let mut told = [0; 8];
    conn.read_exact(&mut told)?;
    ensure!(u64::from_le_bytes(told) == taken, "the origin got {} bytes of {taken}", u64::from_le_bytes(told));
    ensure!(conn.read(&mut told)? == 0, "more arrived than was sent");
    Ok(())
}
