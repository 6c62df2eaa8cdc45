//! What is about Docker and shared by the backends that use it; there is no second engine client anywhere.
//!
//! * [`engine`]: the connection, and the runtime that everything runs on;
//! * [`address`], `transport`: where the engine is, and how a request gets there;
//! * [`trouble`]: what the engine's words mean, and what to type;
//! * [`names`]: names and labels of what is created;
//! * [`network`], [`blocks`]: a bottle's networks and their addresses;
//! * [`image`], `build`, [`pins`]: the agent's and the sidecar's image, from recipes in this crate;
//! * [`builder`]: an image made of what root has done in a container beside a bottle's;
//! * [`derived`]: the image of one bottle alone, with its workspace;
//! * [`export`]: the agent's image as one file, for machines;
//! * [`container`]: creating, starting, and files in and out;
//! * [`bundle`]: the sidecar and its control channel;
//! * [`limits`]: whether the engine can enforce a bottle's limits;
//! * [`exec`]: processes in a container;
//! * [`sweep`]: finding and removing what is left.

pub mod address;
pub mod blocks;
mod build;
pub mod builder;
pub mod bundle;
mod carrier;
pub mod container;
pub mod derived;
pub mod engine;
pub mod exec;
pub mod export;
pub mod image;
pub mod limits;
pub mod names;
pub mod network;
pub mod pins;
pub mod sweep;
mod transport;
pub mod trouble;
