//! The events of one execution.

use serde::{Deserialize, Serialize};

/// One event of an execution. The first is always [`AgentEvent::Started`], the last is the only [`AgentEvent::Ended`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvent {
    /// The execution has started and can be followed, written to or cancelled by its id.
    Started {
        /// Id of the execution in `/executions/{id}`.
        execution_id: String,
    },
    /// A line that the driver has printed, without its line feed. The agent does not read what is in it.
    Frame(String),
    /// The kernel has killed a process of the turn because the container's memory was used up, and the driver goes on. Once in a turn, before
    /// the line with which the driver tells what has become of that process.
    OutOfMemory {
        /// What has used the memory.
        message: String,
    },
    /// The driver's process has ended, and with it the execution.
    Ended(Ended),
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What ended it.
    pub how: How,
    /// Description, for example `exit status: 3`.
    pub message: String,
    /// The end of the driver's standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// Set if the kernel killed a process of the execution because the container's memory was used up: what can be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<String>,
}

/// What ended an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The driver exited with status 0.
    Exited,
    /// The driver was killed by something else, or exited with another status.
    Failed,
    /// The driver closed its output, or was to end, and did not exit in time.
    Unfinished,
    /// The driver's program does not exist in the image.
    Missing,
    /// The driver cannot be started like this.
    Refused,
    /// The execution was cancelled, or had no connected reader for too long.
    Cancelled,
}

#[derive(Serialize, Deserialize)]
struct StartedData {
    execution_id: String,
}

#[derive(Serialize, Deserialize)]
struct OutOfMemoryData {
    message: String,
}

impl AgentEvent {
    /// Name of the event in the SSE `event:` field.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Frame(_) => "frame",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::Ended(_) => "ended",
        }
    }

    /// The SSE `data:` field: JSON, and for a frame the line itself.
    #[must_use]
    pub fn data(&self) -> String {
        let data = match self {
            Self::Started { execution_id } => {
                serde_json::to_string(&StartedData { execution_id: execution_id.clone() })
            }
            Self::Frame(line) => Ok(line.clone()),
            Self::OutOfMemory { message } => serde_json::to_string(&OutOfMemoryData { message: message.clone() }),
            Self::Ended(ended) => serde_json::to_string(ended),
        };
        data.unwrap_or_else(|error| unreachable!("events are plain data: {error}"))
    }

    /// The event of this name and data.
    ///
    /// # Errors
    /// The name is not known, or the data is not that event's.
    pub fn decode(name: &str, data: String) -> Result<Self, serde_json::Error> {
        match name {
            "started" => {
                let StartedData { execution_id } = serde_json::from_str(&data)?;
                Ok(Self::Started { execution_id })
            }
            "frame" => Ok(Self::Frame(data)),
            "out_of_memory" => {
                let OutOfMemoryData { message } = serde_json::from_str(&data)?;
                Ok(Self::OutOfMemory { message })
            }
            "ended" => serde_json::from_str(&data).map(Self::Ended),
            _ => Err(serde::de::Error::custom("no such event")),
        }
    }

    /// Whether this is the last event of an execution.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_wire() {
        let ended =
            Ended { how: How::Failed, message: "exit status: 3".into(), stderr: "why".into(), out_of_memory: None };
        for event in [
            AgentEvent::Started { execution_id: "7".into() },
            AgentEvent::Frame(r#"{"type":"result"}"#.into()),
            AgentEvent::Frame("not JSON".into()),
            AgentEvent::OutOfMemory { message: "64 MiB".into() },
            AgentEvent::Ended(ended),
        ] {
            assert_eq!(AgentEvent::decode(event.name(), event.data()).expect("decodes"), event);
        }
        assert!(AgentEvent::decode("hologram", "{}".into()).is_err());
        assert!(AgentEvent::decode("started", "{}".into()).is_err());
        assert!(AgentEvent::decode("out_of_memory", "{}".into()).is_err());
    }
}
