//! A server that embeds texts: many clients ask for the same popular ones at the same time.
//!
//! The server has a thread for each connection, and all of them share one TorchScript model. A request is a line of
//! texts, which are one batch; the reply is a number for each. The second most popular text is requested half as often
//! as the first, the third a third as often, and so on; new ones keep becoming popular. The server starts empty, twice: once each request computes what it misses (`single_flight_timeout` is 0), and once it waits for texts that
//! another request computes.
//!
//! Run it with `cargo run --release --example inference_server`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tch::{CModule, Device, Kind, Tensor};
use torchcache::{Cached, Options};

const CLIENTS: usize = 16;
const REQUESTS: usize = 40;
const TEXTS: usize = 8; // in a request
const TOPICS: i64 = 100; // at a time
const NEW_TOPICS: i64 = 5; // from one request of a client to the next

const TOKENS: i64 = 64;
const WIDTH: i64 = 256;

type Model = Cached<CModule>;

/// In place of a model from a file: token ids to the mean of what some layers make of them.
fn save_model(file: &Path) -> Result<()> {
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.05;
    let vocabulary = random(&[256, WIDTH]);
    let layers: Vec<Tensor> = (0..8).map(|_| random(&[WIDTH, WIDTH])).collect();
    let mut embed = |inputs: &[Tensor]| {
        let tokens = vocabulary.index_select(0, &inputs[0].view(-1));
        let layer = |xs: Tensor, weight: &Tensor| xs.matmul(weight).gelu("none") + xs;
        let tokens = layers.iter().fold(tokens, layer);
        vec![
            tokens
                .view([-1, TOKENS, WIDTH])
                .mean_dim(1, false, Kind::Float),
        ]
    };
    let example = Tensor::zeros([2, TOKENS], (Kind::Int64, Device::Cpu));
    let mut model = CModule::create_by_tracing("Embed", "forward", &[example], &mut embed)?;
    model.set_eval();
    Ok(model.save(file)?)
}

/// In place of a tokenizer: the bytes of a text, padded.
fn tokenize(text: &str) -> Tensor {
    let mut ids: Vec<i64> = text.bytes().map(i64::from).collect();
    ids.resize(TOKENS as usize, 0);
    Tensor::from_slice(&ids)
}

/// Serves one connection, until it ends.
fn serve(model: &Model, connection: TcpStream) -> Result<()> {
    let mut reply_to = connection.try_clone()?;
    for line in BufReader::new(connection).lines() {
        let line = line?;
        let tokens: Vec<Tensor> = line.split('\t').map(tokenize).collect();
        // Texts that are missing are computed in one forward.
        let embedded = model.forward(&Tensor::stack(&tokens, 0));
        let numbers = Vec::<f32>::try_from(embedded.select(1, 0))?;
        let numbers: Vec<String> = numbers.iter().map(f32::to_string).collect();
        writeln!(reply_to, "{}", numbers.join("\t"))?;
    }
    Ok(())
}

/// Sends requests one after another. Returns the numbers of the replies.
fn ask(server: SocketAddr, requests: &[String]) -> Result<Vec<String>> {
    let mut connection = TcpStream::connect(server)?;
    let mut replies = BufReader::new(connection.try_clone()?).lines();
    let mut numbers = Vec::new();
    for request in requests {
        writeln!(connection, "{request}")?;
        let reply = replies
            .next()
            .context("the server closed the connection")??;
        numbers.extend(reply.split('\t').map(str::to_owned));
    }
    Ok(numbers)
}

/// Starts a server with an empty cache, and all clients. Returns the replies and the time that they took.
fn run(model: &Arc<Model>, clients: &[Vec<String>]) -> Result<(Vec<Vec<String>>, Duration)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = listener.local_addr()?;
    let accept = thread::spawn({
        let (model, connections) = (model.clone(), clients.len());
        move || {
            let serving = listener.incoming().take(connections).map(|connection| {
                let model = model.clone();
                thread::spawn(move || serve(&model, connection?))
            });
            let serving: Vec<_> = serving.collect();
            serving
                .into_iter()
                .try_for_each(|thread| thread.join().expect("no panic"))
        }
    });
    let start = Instant::now();
    let replies = thread::scope(|scope| {
        let asking = clients
            .iter()
            .map(|requests| scope.spawn(move || ask(server, requests)));
        let asking: Vec<_> = asking.collect();
        let replies = asking
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        replies.collect::<Result<Vec<_>>>()
    })?;
    let took = start.elapsed();
    accept.join().expect("no panic")?;
    Ok((replies, took))
}

/// The requests of each client. What they ask for changes with time.
fn requests() -> Result<Vec<Vec<String>>> {
    let popularity = Tensor::arange(TOPICS, (Kind::Float, Device::Cpu)) + 1;
    let shape = [CLIENTS, REQUESTS, TEXTS].map(|length| length as i64);
    let topics = popularity
        .reciprocal()
        .multinomial(shape.iter().product(), true);
    let news = Tensor::arange(shape[1], (Kind::Int64, Device::Cpu)).view([-1, 1]) * NEW_TOPICS;
    let numbers = Vec::<i64>::try_from((topics.view(shape) + news).view(-1))?;
    let texts: Vec<String> = numbers
        .iter()
        .map(|number| format!("news of {number}"))
        .collect();
    let requests: Vec<String> = texts.chunks(TEXTS).map(|it| it.join("\t")).collect();
    Ok(requests.chunks(REQUESTS).map(<[String]>::to_vec).collect())
}

fn main() -> Result<()> {
    tch::manual_seed(0);
    // The threads of the server are enough for all cores.
    tch::set_num_threads(1);
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("embed.pt");
    save_model(&file)?;
    let clients = requests()?;
    let texts = clients
        .iter()
        .flatten()
        .flat_map(|request| request.split('\t'));
    let distinct = texts.collect::<BTreeSet<_>>().len();
    println!("{CLIENTS} clients, {distinct} different texts\n");
    println!("single flight   requests/s   computed   per text   awaited   found");
    for (name, timeout) in [("off", 0.0), ("on", 10.0)] {
        let options = Options::builder()
            .single_flight_timeout(timeout)
            .version(name) // rows of its own: those of the other server would be found
            .build()?;
        let model = Arc::new(Cached::new(CModule::load(&file)?, (), options)?);
        let (replies, took) = run(&model, &clients)?;
        check(&clients, &replies)?;
        let stats = model.cache().stats();
        println!(
            "{name:<13}{:>13.0}{:>11}{:>11.2}{:>10}{:>8}",
            (CLIENTS * REQUESTS) as f64 / took.as_secs_f64(),
            stats.misses,
            stats.misses as f64 / distinct as f64,
            stats.awaited,
            stats.memory.hits + stats.duplicates,
        );
    }
    Ok(())
}

/// Each text has the same number in all replies.
fn check(clients: &[Vec<String>], replies: &[Vec<String>]) -> Result<()> {
    let texts = clients
        .iter()
        .flatten()
        .flat_map(|request| request.split('\t'));
    let mut numbers = BTreeMap::new();
    for (text, number) in texts.zip(replies.iter().flatten()) {
        let known = *numbers.entry(text).or_insert(number);
        ensure!(
            known == number,
            "{text} has the numbers {known} and {number}"
        );
    }
    Ok(())
}
