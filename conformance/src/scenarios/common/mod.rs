//! What scenarios of several files share.

pub(crate) mod asking;
pub(crate) mod bare_container;
pub(crate) mod broken_run;
pub(crate) mod bucket;
pub(crate) mod command;
pub(crate) mod durable_run;
pub(crate) mod everything;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod leftovers;
pub(crate) mod limits;
pub(crate) mod lockdown;
pub(crate) mod log_level;
pub(crate) mod needs;
pub(crate) mod outside;
pub(crate) mod rooms;
pub(crate) mod server_container;
pub(crate) mod shape;
pub(crate) mod shared_redis;
pub(crate) mod single_room;
pub(crate) mod socket_directory;
pub(crate) mod trail;
pub(crate) mod wire;
