//! State in Redis, for a deployment of several servers.
//!
//! Keys, all below `nagaya:{DEPLOYMENT}:` (the braces are a hash tag, which puts a deployment's keys in one slot of a
//! Redis cluster): `room:ID` is a record, `rooms` the set of all ids, `conversation:ID` the room that a conversation has, `lock:ID` the
//! server that is building it one, `quarantine:ID` a value that is not a valid record, and there are `pool` and `epoch`. All but the
//! last two expire, so a removed deployment leaves almost nothing behind.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Script, Value, cmd, pipe};

use super::quarantine::Quarantine;
use super::redis_link::{Failure, Link, RedisAddress};
use super::{PoolSize, Record, State, StateError, WriteOutcome};

/// Records per command: a large response would delay the other calls on the shared connection.
const BATCH: usize = 500;
/// How long a value in quarantine is kept for inspection.
const QUARANTINE_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Compare-and-set of a record together with its conversation's entry.
/// KEYS: record, set of ids, entry of the old conversation, entry of the new one. ARGV: id, old, new, TTL, prefix of records, new
/// conversation. An entry of another room is ignored unless it refers to a valid record of that conversation.
const COMPARE_AND_SET: &str = r"
    local id, old, new, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
    if (redis.call('GET', KEYS[1]) or '') ~= old then return 'changed' end
    if KEYS[4] ~= '' then
        local other = redis.pcall('GET', KEYS[4])
        if type(other) == 'string' and other ~= id then
            local text = redis.pcall('GET', ARGV[5] .. other)
            local decoded, record = pcall(cjson.decode, type(text) == 'string' and text or '')
            if decoded and type(record) == 'table' and record.conversation == ARGV[6] then return 'taken' end
        end
    end
    if KEYS[3] ~= '' and KEYS[3] ~= KEYS[4] and redis.pcall('GET', KEYS[3]) == id then redis.call('DEL', KEYS[3]) end
    if new == '' then
        redis.call('DEL', KEYS[1])
        redis.call('SREM', KEYS[2], id)
    else
        redis.call('SET', KEYS[1], new, 'PX', ttl)
        redis.call('SADD', KEYS[2], id)
        redis.call('PEXPIRE', KEYS[2], ttl)
        if KEYS[4] ~= '' then redis.call('SET', KEYS[4], id, 'PX', ttl) end
    end
    return 'done'";

/// Acquires or renews a lock; returns the holder that has it instead.
/// KEYS: lock. ARGV: holder, dead holder, TTL.
const LOCK: &str = r"
    local held_by = redis.call('GET', KEYS[1])
    if held_by and held_by ~= ARGV[1] and held_by ~= ARGV[2] then return held_by end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
    return ''";

/// Releases a lock. KEYS: lock. ARGV: holder.
const UNLOCK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return ''";

/// Returns the epoch and sets it if it is missing. KEYS: epoch. ARGV: the new epoch.
const EPOCH: &str = r"
    if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SET', KEYS[1], ARGV[1]) end
    return redis.call('GET', KEYS[1])";

/// The state of a deployment in Redis.
#[derive(Debug)]
pub struct Redis {
    link: Link,
    prefix: String,
    /// Time to live of records and their entries.
    ttl: Duration,
    quarantine: Quarantine,
}

impl Redis {
    /// The state of `deployment`. Connects at the first call, so that a server starts while Redis is down. A record expires after `ttl`
    /// unless it is refreshed.
    ///
    /// # Errors
    /// The client rejects the address.
    pub fn new(address: RedisAddress, deployment: &str, ttl: Duration) -> Result<Self, StateError> {
        let prefix = format!("nagaya:{{{deployment}}}:");
        Ok(Self { link: Link::new(address)?, prefix, ttl, quarantine: Quarantine::default() })
    }

    fn key(&self, kind: &str, id: &str) -> String {
        format!("{}{kind}:{id}", self.prefix)
    }

    fn conversation_key(&self, record: Option<&Record>) -> String {
        let conversation = record.and_then(|record| record.occupant.as_ref());
        conversation.map_or_else(String::new, |(conversation, _)| self.key("conversation", conversation))
    }

    async fn send<T: redis::FromRedisValue>(&self, command: redis::Cmd) -> Result<T, Failure> {
        self.link.with(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    async fn eval(&self, script: &str, keys: &[&str], arguments: &[&str]) -> Result<String, Failure> {
        let script = Script::new(script);
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(*key);
        }
        for argument in arguments {
            call.arg(*argument);
        }
        self.link.with(|mut connection| async move { call.invoke_async(&mut connection).await }).await
    }

    /// Decodes the value under a room's key, or moves it to quarantine.
    async fn read(&self, workspace: &str, found: Result<Value, Failure>) -> Result<Option<Record>, StateError> {
        let why = match found {
            Ok(Value::Nil) => return Ok(None),
            Ok(Value::BulkString(bytes)) => match Record::decode(workspace, &bytes) {
                Ok(record) => return Ok(Some(record)),
                Err(why) => why,
            },
            Ok(_) => "not a string".to_owned(),
            Err(Failure::WrongType) => "not a string".to_owned(),
            Err(failure) => return Err(self.link.error(failure)),
        };
        let (from, to) = (self.key("room", workspace), self.key("quarantine", workspace));
        let ttl = millis(QUARANTINE_TTL);
        let mut moved = pipe();
        moved.atomic().cmd("RENAME").arg(&from).arg(&to).ignore();
        moved.cmd("PEXPIRE").arg(&to).arg(&ttl).ignore();
        moved.cmd("SREM").arg(format!("{}rooms", self.prefix)).arg(workspace).ignore();
        let moved: Result<(), Failure> =
            self.link.with(|mut connection| async move { moved.query_async(&mut connection).await }).await;
        match moved {
            // Another server has moved it first.
            Err(Failure::NoSuchKey) => Ok(None),
            Err(failure) => Err(self.link.error(failure)),
            Ok(()) => {
                self.quarantine.report(workspace, &why, &to);
                Ok(None)
            }
        }
    }

    async fn get(&self, key: &str) -> Result<Value, Failure> {
        let mut get = cmd("GET");
        get.arg(key);
        self.send(get).await
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

#[async_trait]
impl State for Redis {
    async fn ping(&self) -> Result<(), StateError> {
        let answer: String = self.send(cmd("PING")).await.map_err(|failure| self.link.error(failure))?;
        tracing::trace!(answer, "redis");
        Ok(())
    }

    async fn epoch(&self) -> Result<String, StateError> {
        let (key, new) = (format!("{}epoch", self.prefix), format!("{:016x}", rand::random::<u64>()));
        self.eval(EPOCH, &[&*key], &[&*new]).await.map_err(|failure| self.link.error(failure))
    }

    async fn records(&self) -> Result<Vec<Record>, StateError> {
        let mut members = cmd("SMEMBERS");
        let rooms = format!("{}rooms", self.prefix);
        members.arg(&rooms);
        let ids: Vec<String> = self.send(members).await.map_err(|failure| self.link.error(failure))?;
        let mut records = Vec::with_capacity(ids.len());
        for ids in ids.chunks(BATCH) {
            let mut get = cmd("MGET");
            for id in ids {
                get.arg(self.key("room", id));
            }
            let found: Vec<Value> = self.send(get).await.map_err(|failure| self.link.error(failure))?;
            for (id, found) in ids.iter().zip(found) {
                // MGET returns nil both for a missing key and for one that is not a string; GET distinguishes them.
                let found = if found == Value::Nil { self.get(&self.key("room", id)).await } else { Ok(found) };
                if matches!(found, Ok(Value::Nil)) {
                    let mut remove = cmd("SREM");
                    remove.arg(&rooms).arg(id);
                    let _: usize = self.send(remove).await.map_err(|failure| self.link.error(failure))?;
                    continue;
                }
                records.extend(self.read(id, found).await?);
            }
        }
        Ok(records)
    }

    async fn record(&self, workspace: &str) -> Result<Option<Record>, StateError> {
        let found = self.get(&self.key("room", workspace)).await;
        self.read(workspace, found).await
    }

    async fn record_by_conversation(&self, conversation: &str) -> Result<Option<Record>, StateError> {
        let workspace = match self.get(&self.key("conversation", conversation)).await {
            Ok(Value::BulkString(bytes)) => String::from_utf8(bytes).ok(),
            Ok(_) => None,
            Err(Failure::WrongType) => None,
            Err(failure) => return Err(self.link.error(failure)),
        };
        let Some(workspace) = workspace else { return Ok(None) };
        let record = self.record(&workspace).await?;
        Ok(record.filter(|record| record.occupant.as_ref().is_some_and(|(theirs, _)| theirs == conversation)))
    }

    async fn compare_and_set(
        &self,
        workspace: &str,
        old: Option<&Record>,
        new: Option<&Record>,
    ) -> Result<WriteOutcome, StateError> {
        // Reading the record first moves one that cannot be decoded to quarantine.
        if old.is_none() && self.record(workspace).await?.is_some() {
            return Ok(WriteOutcome::Conflict);
        }
        let keys = [
            &*self.key("room", workspace),
            &*format!("{}rooms", self.prefix),
            &*self.conversation_key(old),
            &*self.conversation_key(new),
        ];
        let conversation = new.and_then(|new| new.occupant.as_ref()).map_or("", |(conversation, _)| conversation);
        let (old, new) = (old.map(Record::encode).unwrap_or_default(), new.map(Record::encode).unwrap_or_default());
        let arguments = [workspace, &*old, &*new, &*millis(self.ttl), &*self.key("room", ""), conversation];
        match self.eval(COMPARE_AND_SET, &keys, &arguments).await {
            Ok(answer) => Ok(match answer.as_str() {
                "done" => WriteOutcome::Written,
                "taken" => WriteOutcome::ConversationTaken,
                _ => WriteOutcome::Conflict,
            }),
            Err(Failure::WrongType) => Ok(WriteOutcome::Conflict),
            Err(failure) => Err(self.link.error(failure)),
        }
    }

    async fn refresh(&self, records: &[Record]) -> Result<(), StateError> {
        let ttl = millis(self.ttl);
        for records in records.chunks(BATCH) {
            let mut extend = pipe();
            extend.cmd("PEXPIRE").arg(format!("{}rooms", self.prefix)).arg(&ttl).ignore();
            for record in records {
                extend.cmd("PEXPIRE").arg(self.key("room", &record.workspace)).arg(&ttl).ignore();
                if record.occupant.is_some() {
                    extend.cmd("PEXPIRE").arg(self.conversation_key(Some(record))).arg(&ttl).ignore();
                }
            }
            let done: Result<(), Failure> =
                self.link.with(|mut connection| async move { extend.query_async(&mut connection).await }).await;
            done.map_err(|failure| self.link.error(failure))?;
        }
        Ok(())
    }

    async fn lock(
        &self,
        conversation: &str,
        holder: &str,
        dead_holder: Option<&str>,
        ttl: Duration,
    ) -> Result<Option<String>, StateError> {
        let key = self.key("lock", conversation);
        let theirs = self.eval(LOCK, &[&*key], &[holder, dead_holder.unwrap_or(holder), &*millis(ttl)]).await;
        let theirs = theirs.map_err(|failure| self.link.error(failure))?;
        Ok(Some(theirs).filter(|theirs| !theirs.is_empty()))
    }

    async fn unlock(&self, conversation: &str, holder: &str) -> Result<(), StateError> {
        let key = self.key("lock", conversation);
        self.eval(UNLOCK, &[&*key], &[holder]).await.map_err(|failure| self.link.error(failure)).map(drop)
    }

    async fn pool(&self) -> Result<Option<PoolSize>, StateError> {
        let mut get = cmd("GET");
        get.arg(format!("{}pool", self.prefix));
        let text: Option<String> = self.send(get).await.map_err(|failure| self.link.error(failure))?;
        let size = text.as_deref().and_then(|text| text.split_once(' '));
        let size = size.and_then(|(min, max)| Some(PoolSize { min: min.parse().ok()?, max: max.parse().ok()? }));
        Ok(size.filter(|size| size.min <= size.max))
    }

    async fn set_pool(&self, size: PoolSize) -> Result<(), StateError> {
        let mut set = cmd("SET");
        set.arg(format!("{}pool", self.prefix)).arg(format!("{} {}", size.min, size.max));
        self.send(set).await.map_err(|failure| self.link.error(failure))
    }

    fn quarantined(&self) -> Option<String> {
        self.quarantine.message()
    }

    async fn close(&self) {
        self.link.close().await;
    }
}
