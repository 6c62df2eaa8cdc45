//! Descriptors on their way between processes of the bundle's: one short message, and what it lends.

use anyhow::{Result, bail};
use rustix::{
    cmsg_space,
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The most that one message lends.
const DESCRIPTORS: usize = 8;
/// The longest message.
const LONGEST: usize = 2;

/// Sends a message. It never waits: whoever is broken into may not listen any more.
pub(crate) fn send(socket: impl AsFd, message: &[u8], lent: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !lent.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(lent)) {
        bail!("{} descriptors for one message, which takes {DESCRIPTORS}", lent.len());
    }
    sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for a message. `None`: the other end is closed.
pub(crate) fn receive(socket: impl AsFd) -> Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let (mut space, mut message) = ([MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))], [0; LONGEST]);
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(&mut message)];
    let received = retry_on_intr(|| recvmsg(&socket, into, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
    let mut lent = vec![];
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            lent.extend(descriptors);
        }
    }
    Ok((received.bytes > 0).then(|| (message[..received.bytes].to_vec(), lent)))
}
