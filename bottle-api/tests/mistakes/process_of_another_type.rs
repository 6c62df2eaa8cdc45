//! A bottle whose processes are process ids.

use bottle_api::*;
use std::{fs::File, os::fd::OwnedFd, time::Duration};

struct Mine;

impl Bottle for Mine {
    type Process = u32;

    fn describe(&self) -> Result<BottleInfo> {
        Ok(BottleInfo::default())
    }
    fn start(&self, _: &StartRequest, _: Stdio, _: &Cancel) -> Result<u32> {
        Ok(1)
    }
    fn put(&self, _: &PutRequest, _: File, _: &Cancel) -> Result<()> {
        Ok(())
    }
    fn get(&self, _: &GetRequest, _: File, _: &Cancel) -> Result<()> {
        Ok(())
    }
    fn channel(&self, _: &ChannelRequest) -> Result<OwnedFd> {
        Err(Error::unsupported("channels"))
    }
    fn close(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}

fn main() {}
