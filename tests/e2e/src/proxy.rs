//! A link between a worker and the coordinator that can be cut: what is sent is held back until it is mended, as by a
//! network that is down.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(5);

/// A TCP proxy on loopback. Its threads end when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    target: String,
    is_cut: AtomicBool,
    has_ended: AtomicBool,
}

impl Proxy {
    /// To HOST:PORT.
    pub fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            target: target.to_owned(),
            is_cut: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        });
        let accepting = state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.has_ended.load(Ordering::Relaxed) {
                    return;
                }
                let state = accepting.clone();
                std::thread::spawn(move || connect(client, &state));
            }
        });
        Self { address, state }
    }

    /// HOST:PORT.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Nothing gets through from now on, and nobody is told.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Ordering::Relaxed);
    }

    /// Everything gets through again, also what was held back.
    pub fn mend(&self) {
        self.state.is_cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mend();
        self.state.has_ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

impl State {
    fn wait_while_cut(&self) {
        while self.is_cut.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
        }
    }
}

fn connect(client: TcpStream, state: &Arc<State>) {
    state.wait_while_cut();
    // Nobody there: the client sees its connection close.
    let Ok(server) = TcpStream::connect(&state.target) else { return };
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { return };
    let other = state.clone();
    std::thread::spawn(move || copy(from_server, client, &other));
    copy(from_client, server, state);
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut bytes = [0; 16 << 10];
    loop {
        let count = from.read(&mut bytes).unwrap_or(0);
        state.wait_while_cut();
        if count == 0 || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
