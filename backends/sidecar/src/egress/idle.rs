//! A stream that fails once nothing has gone through it, either way, for a while.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// The stream.
pub(super) struct Idle<T> {
    io: T,
    limit: Duration,
    /// The last progress. The timer is moved when it fires, not with every byte.
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<T> Idle<T> {
    pub(super) fn new(io: T, limit: Duration) -> Self {
        Self { io, limit, last: Instant::now(), timer: Box::pin(sleep(limit)) }
    }

    /// Passes a result on: progress is noted, and waiting is only for as long as the limit allows.
    fn watch<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.last = Instant::now();
            return result;
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let end = self.last + self.limit;
            if Instant::now() >= end {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Idle<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.watch(cx, result)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Idle<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, data);
        self.watch(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, data);
        self.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn only_what_stands_still_ends() {
        let (mut near, far) = duplex(64);
        let mut idle = Idle::new(far, Duration::from_secs(10));
        let writer = tokio::spawn(async move {
            for _ in 0..3 {
                sleep(Duration::from_secs(8)).await;
                near.write_all(b"x").await.unwrap();
            }
            sleep(Duration::from_secs(60)).await;
            near
        });
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(idle.read_u8().await.unwrap(), b'x');
        }
        assert_eq!(idle.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 34);
        drop(writer);
    }
}
