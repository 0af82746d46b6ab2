//! Scripts through the running program: handlers, filters, errors that drop one
//! message, a reload under connections that stay, and bombs that others do not notice.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Ending, NodeProcess, PATIENCE, accept_one, binary, connect, listener, read_all, run};

/// A node with files in a folder of its own.
struct Files {
    folder: TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self) -> NodeProcess {
        let mut command = Command::new(binary());
        command.args(["run", "--log-format", "json"]).arg(self.path("node.toml"));
        NodeProcess::spawn(&mut command)
    }

    /// What `node check` says, and its exit code.
    fn check(&self) -> (i32, String) {
        let out = run(Command::new(binary()).arg("check").arg(self.path("node.toml")), &[]);
        let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        (out.status.code().unwrap(), text.into_owned())
    }
}

/// A line-framed listener with one script.
fn lines(code: &str) -> (Files, NodeProcess) {
    let files = lines_with("", code);
    let node = files.run();
    (files, node)
}

fn lines_with(more: &str, code: &str) -> Files {
    let config = format!(
        "[listen.a]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n{more}\n[script.s]\ntarget = \"a\"\nfile = \"s.luau\"\n"
    );
    Files::new(&[("node.toml", &config), ("s.luau", code)])
}

struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    fn of(address: SocketAddr) -> Self {
        let stream = connect(address);
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    fn accepted(server: &TcpListener) -> Self {
        let stream = accept_one(server);
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stream, "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

#[test]
fn an_error_names_its_line_and_drops_that_message_only() {
    let (_files, node) = lines(
        "local function parse(line)\n  return #line / nil\nend\nfunction on_message_received(conn, line)\n  \
         if line == 'bad' then parse(line) end\n  conn:write('had ' .. line)\nend\n",
    );
    let mut client = Client::of(node.address());
    for line in ["one", "bad", "two"] {
        client.say(line);
    }
    assert_eq!((client.hear(), client.hear()), ("had one".into(), "had two".into()));
    let line = node.line("a script failed");
    assert!(line.contains("s.luau:2: attempt to perform arithmetic"), "{line}");
    assert!(line.contains("s.luau:5 in on_message_received"), "{line}");
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_script_may_close_the_connection_of_an_error() {
    let files = lines_with(
        "",
        "function on_message_received(conn, line)\n  conn:write('once')\n  error('no')\nend\n",
    );
    let config = fs::read_to_string(files.path("node.toml")).unwrap() + "on_error = \"close\"\n";
    fs::write(files.path("node.toml"), config).unwrap();
    let node = files.run();
    let mut client = Client::of(node.address());
    client.say("x");
    assert_eq!(client.hear(), "once");
    assert_eq!(client.hear(), "");
    node.line("s.luau:3: no");
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_reload_swaps_a_script_under_connections_that_stay() {
    let answer = |version| {
        format!("function on_message_received(conn, line)\n  conn:write('{version} ' .. line)\nend\n")
    };
    let files = lines_with("", &answer("one"));
    let node = files.run();
    let mut client = Client::of(node.address());
    client.say("a");
    assert_eq!(client.hear(), "one a");
    fs::write(files.path("s.luau"), "function on_message_received(\n").unwrap();
    node.signal(Signal::HUP);
    node.line("s.luau:2: ");
    client.say("b");
    assert_eq!(client.hear(), "one b", "a text with a fault changes nothing");
    fs::write(files.path("s.luau"), answer("two")).unwrap();
    node.signal(Signal::HUP);
    node.line("script.s");
    // The event comes when it has been swapped.
    client.say("c");
    let heard = client.hear();
    assert!(heard == "two c" || heard == "one c", "{heard}");
    client.say("d");
    while client.hear() != "two d" {
        client.say("d");
    }
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn quit_ends_the_node_with_its_exit_code() {
    let (_files, node) =
        lines("function on_message_received(conn, line)\n  node.quit(tonumber(line))\nend\n");
    let mut client = Client::of(node.address());
    client.say("7");
    drop(client);
    assert_eq!(node.wait().0, 7);
}

#[test]
fn filters_change_drop_split_and_answer() {
    let code = "function f(conn, frame)\n  if frame == '' then return nil end\n  if frame == 'who' then return reply('me') end\n  return { frame, conn.id > 0 and frame:upper() }\nend\n";
    let config = "[listen.a]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n[listen.b]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n\
                  [script.s]\nfile = \"s.luau\"\n[[connect]]\nsignal = \"a.message_received\"\nvia = [\"script.s.f\"]\nslot = \"b.broadcast\"\n";
    let files = Files::new(&[("node.toml", config), ("s.luau", code)]);
    let node = files.run();
    let (first, second) = (node.address_of(0), node.address_of(1));
    let name = |nth: usize| node.nth_event("listening", nth)["endpoint"].as_str().unwrap().to_owned();
    let (a, b) = if name(0) == "a" { (first, second) } else { (second, first) };
    let mut reads = Client::of(b);
    node.event("new_connection");
    let mut writes = Client::of(a);
    for line in ["", "who", "x"] {
        writes.say(line);
    }
    assert_eq!(writes.hear(), "me");
    assert_eq!((reads.hear(), reads.hear()), ("x".into(), "X".into()));
    drop((reads, writes));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_write_into_a_full_queue_suspends_the_function_and_not_the_script() {
    let code = "function on_message_received(conn, line)\n  for i = 1, 256 do\n    conn:write(string.rep('x', 65535))\n  end\nend\n\
                function tick(n)\n  if n % 3 == 0 then log.info('tick', n) end\nend\n";
    let more = "queue_max = \"256KiB\"\nqueue_overflow = \"block\"\n[timer.t]\nevery = \"20ms\"\n[[connect]]\nsignal = \"t.timeout\"\nslot = \"script.s.tick\"\nargs = { n = \"{n}\" }\n";
    let files = lines_with(
        more,
        &code.replace("function tick(n)\n  if n", "function tick(n)\n  n = tonumber(n)\n  if n"),
    );
    let node = files.run();
    let mut client = Client::of(node.address());
    client.say("go");
    node.line("tick 12");
    client.stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    client.reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 256 * 65536);
    assert_eq!(node.stop().0, 0);
}

/// Three that wait for different things, one of which goes on sending, and one that does not wait.
#[test]
fn a_handler_that_waits_holds_up_its_own_connection_and_no_other() {
    let code = "function on_message_received(conn, line)\n  if line == 'sleep' then sleep(86400) end\n  \
                if line == 'soon' then sleep(0.1) end\n  if line == 'login' then auth.verify('a', 'b') end\n  \
                if line == 'write' then\n    for i = 1, 256 do conn:write(string.rep('x', 65535)) end\n  end\n  \
                conn:write('had ' .. line)\nend\n";
    let files = lines_with("queue_max = \"256KiB\"\nqueue_overflow = \"block\"", code);
    fs::write(files.path("users"), "").unwrap();
    let config = fs::read_to_string(files.path("node.toml")).unwrap() + "passwords = \"users\"\n";
    fs::write(files.path("node.toml"), config).unwrap();
    let node = files.run();
    let [mut sleeps, mut writes, mut logs_in, mut free] = [(); 4].map(|()| Client::of(node.address()));
    sleeps.say("sleep");
    writes.say("write");
    sleeps.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let line = [&[b'x'; 1_000][..], b"\n"].concat();
    let mut written = 0_usize;
    while let Ok(count) = sleeps.stream.write(&line) {
        written += count;
        assert!(written < 64 << 20, "one that waits is read without limit");
    }
    for nth in 0..1_000 {
        if nth % 250 == 0 {
            logs_in.say("login");
        }
        free.say(&nth.to_string());
        assert_eq!(free.hear(), format!("had {nth}"));
    }
    for _ in 0..4 {
        assert_eq!(logs_in.hear(), "had login");
    }
    // Behind one that waits its own order is kept.
    for line in ["soon", "then", "soon", "last"] {
        free.say(line);
    }
    for line in ["soon", "then", "soon", "last"] {
        assert_eq!(free.hear(), format!("had {line}"));
    }
    drop((sleeps, writes, logs_in, free));
    node.signal(Signal::TERM);
    node.signal(Signal::TERM);
    assert_eq!(node.wait().0, 1, "what was cut is said");
}

/// Each connection leaves a megabyte in `conn.data`, of which sixteen fit.
#[test]
fn what_a_script_keeps_of_a_connection_goes_with_it() {
    let (_files, node) = lines(
        "function on_message_received(conn, line)\n  conn.data.big = string.rep(line, 1e6)\n  conn:write('had ' .. line)\nend\n",
    );
    for nth in 0..100 {
        let mut client = Client::of(node.address());
        client.say("x");
        assert_eq!(client.hear(), "had x", "client {nth}");
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.hear(), "");
    }
    assert_eq!(node.stop().0, 0);
}

/// What is garbage is no reason to fail, though half of what may be used is in use.
#[test]
fn a_script_that_holds_much_and_drops_much_goes_on() {
    let (_files, node) = lines(
        "local held = {}\nfor i = 1, 10 do held[i] = string.rep('x', 1e6) .. i end\n\
         function on_message_received(conn, line)\n  local text = string.rep(line, 4e5)\n  conn:write('had ' .. #text)\nend\n",
    );
    let mut client = Client::of(node.address());
    for nth in 0..200 {
        client.say("x");
        assert_eq!(client.hear(), "had 400000", "message {nth}");
    }
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn everything_a_script_can_do_to_connections_and_objects() {
    let (server, target) = listener();
    let code = "local known\nfunction on_new_connection(conn)\n  known = conn\nend\n\
        function on_message_received(conn, line)\n\
          local word, rest = line:match('^(%S+) ?(.*)$')\n\
          if word == 'who' then conn:write(table.concat({ conn.id > 0 and 'id', conn.object, conn.local_address, tostring(conn == known), tostring(conn) }, ' '))\n\
          elseif word == 'name' then conn.name = rest conn:write(conn.name) conn.name = nil conn:write(conn.name)\n\
          elseif word == 'try' then local n = 0 while conn:try_write(string.rep('x', 1023)) do n += 1 end log.info('tried', n > 100 and n < 1e5)\n\
          elseif word == 'all' then node.a:broadcast(rest)\n\
          elseif word == 'others' then node.a:broadcast(rest, { except = conn })\n\
          elseif word == 'each' then for _, other in node.a:connections() do node.a:write(rest .. other.id, other) end\n\
          elseif word == 'up' then conn:write(node.up.state) node.up:write(rest)\n\
          elseif word == 'close_up' then node.up:close()\n\
          elseif word == 'open_up' then node.up:open()\n\
          elseif word == 'half' then conn:write('bye') conn:shutdown_write()\n\
          elseif word == 'close' then conn:write('bye') conn:close() log.info('after', tostring(conn:write('late')))\n\
          elseif word == 'abort' then conn:abort()\n\
          elseif word == 'wrong' then for _, f in {\n\
              function() node.upp:write('x') end, function() node.a:write('x') end, function() node.a:broadcast('x', { exept = conn }) end,\n\
              function() conn:write() end, function() conn:write({}) end, function() conn.write(node.a, 'x') end, function() conn.id = 3 end,\n\
              function() conn.data = 3 end, function() conn.dta = 1 end, function() return conn.nothing() end, function() node.a:brodcast('x') end,\n\
              function() setmetatable(conn, {}) end, function() getmetatable(conn).__index = {} end, function() getmetatable(node).__index = print end,\n\
              function() node.a = nil end, function() node.quit = print end, function() auth.verify = print end, function() rawset(node, 'x', 1) end,\n\
              function() emit('../x') end, function() emit(string.rep('x', 1e5)) end, function() emit('ok', 'x', { t = {} }) end, function() node.quit(256) end,\n\
              function() node.a:write('x', 7) end, function() node['script.s']:write('x') end, function() auth.verify('a', 'b') end } do\n\
              local ok, text = pcall(f)\n\
              if ok then log.info('not refused', _) end\n\
            end\n\
            conn:write('all tried')\n\
          elseif word == 'now' then conn:write(type(now()) .. ' ' .. json.encode({ a = unhex('41') }) .. ' ' .. hex('A'))\n\
          end\n\
        end\n";
    let more = format!(
        "queue_max = \"256KiB\"\nqueue_overflow = \"block\"\n[client.up]\nto = \"{target}\"\nframing = \"lines\"\n[[connect]]\nsignal = \"up.message_received\"\nslot = \"log.info\"\n"
    );
    let files = lines_with(&more, code);
    let node = files.run();
    let mut upstream = Client::accepted(&server);
    let mut client = Client::of(node.address());
    client.say("who");
    let own = client.stream.local_addr().unwrap();
    let who = client.hear();
    assert!(who.starts_with(&format!("id a {} true connection ", node.address())), "{who}");
    assert!(who.ends_with(&format!(" of a with {own}")), "{who}");
    client.say("name ann");
    assert_eq!((client.hear(), client.hear()), ("ann".into(), own.to_string()));
    client.say("now");
    assert_eq!(client.hear(), "number {\"a\":\"A\"} 41");
    let mut other = Client::of(node.address());
    node.nth_event("new_connection", 1);
    client.say("all x");
    assert_eq!((client.hear(), other.hear()), ("x".into(), "x".into()));
    client.say("others y");
    client.say("each z");
    assert_eq!(other.hear(), "y");
    assert!(client.hear().starts_with('z') && other.hear().starts_with('z'));
    client.say("up hello");
    assert_eq!((client.hear(), upstream.hear()), ("connected".into(), "hello".into()));
    client.say("close_up");
    assert_eq!(upstream.hear(), "");
    drop(upstream);
    client.say("open_up");
    let mut upstream = Client::accepted(&server);
    client.say("up again");
    assert_eq!((client.hear(), upstream.hear()), ("connected".into(), "again".into()));
    client.say("wrong");
    assert_eq!(client.hear(), "all tried");
    assert!(!node.lines().iter().any(|line| line.contains("not refused")), "{:?}", node.lines());
    let mut full = Client::of(node.address());
    full.say("try");
    node.line("tried true");
    drop(full);
    let mut half = Client::of(node.address());
    half.say("half");
    assert_eq!((half.hear(), half.hear()), ("bye".into(), String::new()));
    half.say("who");
    drop(half);
    other.say("close");
    assert_eq!(read_all(&other.stream).0, b"bye\n");
    node.line("after false");
    client.say("abort");
    assert_eq!(read_all(&client.stream).1, Ending::Reset);
    drop((client, other, upstream));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn bombs_are_stopped_and_others_do_not_notice() {
    let code = "function on_message_received(conn, line)\n  if line == 'loop' then while true do end end\n  \
                if line == 'memory' then local t = {} while true do t[#t + 1] = string.rep('x', 1e5) .. #t end end\n  \
                if line == 'emit' then for i = 1, 1e6 do emit('flood', line) end end\n  \
                if line == 'log' then for i = 1, 1000 do log.info('flood', i) end end\n  \
                if line == 'pattern' then string.rep('a', 4000):find(string.rep('a*', 30) .. 'b') end\n  \
                if line == 'deep' then local function f() return 1 + f() end f() end\n  \
                if line == 'string' then local s = 'x' while true do s ..= s end end\n  \
                conn:write('had ' .. line)\nend\n";
    let more = "[listen.other]\nbind = \"127.0.0.1:0\"\n[relay.other]\nfrom = \"other\"\nmode = \"echo\"\n";
    let files = lines_with(&more.replace("relay.other", "relay.back"), code);
    let node = files.run();
    let name = |nth: usize| node.nth_event("listening", nth)["endpoint"].as_str().unwrap().to_owned();
    let (a, other) = if name(0) == "a" {
        (node.address_of(0), node.address_of(1))
    } else {
        (node.address_of(1), node.address_of(0))
    };
    let mut client = Client::of(a);
    let mut neighbour = Client::of(other);
    let memory = node.memory("VmRSS");
    let mut times = Vec::new();
    for round in 0..5 {
        for line in ["loop", "memory", "pattern", "deep", "string", "emit", "log"] {
            client.say(line);
        }
        client.say("well");
        for nth in 0..50 {
            let begin = Instant::now();
            neighbour.say(&format!("{round} {nth}"));
            assert_eq!(neighbour.hear(), format!("{round} {nth}"));
            times.push(begin.elapsed());
        }
        assert_eq!((client.hear(), client.hear()), ("had log".into(), "had well".into()));
    }
    times.sort();
    assert!(times[times.len() * 99 / 100] < PATIENCE / 10, "{times:?}");
    node.line("s.luau:2: ran for more than 20 ms");
    node.line("s.luau:3: its values take more than 16384 KiB of memory");
    node.line("s.luau:4: emit: more than 1000 signals in one call");
    node.line("s.luau:6: ran for more than 20 ms");
    node.line("s.luau:7: stack overflow");
    node.line("s.luau:8: its values take more than 16384 KiB of memory");
    let grown = node.memory("VmRSS").saturating_sub(memory);
    assert!(grown < 64 << 10, "{grown} KiB were not returned");
    drop((client, neighbour));
    let (code, log) = node.stop();
    assert_eq!(code, 0);
    assert!(log.iter().filter(|line| line.contains("flood ")).count() <= 1_000, "the log has a limit");
}

#[test]
fn a_circle_of_signals_is_cut_and_named() {
    let code = "function on_message_received(conn, line)\n  emit('again', line)\n  conn:write('had ' .. line)\nend\n\
                function again(conn, line)\n  emit('again', line)\nend\n";
    let wire = "[[connect]]\nsignal = \"script.s.again\"\nslot = \"script.s.again\"\n";
    let files = lines_with(wire, code);
    let node = files.run();
    let mut client = Client::of(node.address());
    client.say("x");
    assert_eq!(client.hear(), "had x");
    let line = node.line("would go on for ever");
    assert!(
        line.contains("script.s.again → script.s.again") && line.contains("s.luau:6: emit: cut"),
        "{line}"
    );
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn check_names_what_a_script_cannot_mean() {
    for (code, expected) in [
        (
            "function on_readyRead(conn) end",
            "`a` has no signal `readyRead`; did you mean `on_message_received`",
        ),
        ("function on_mesage_received(conn) end", "did you mean `on_message_received`?"),
        ("function on_newConnection(conn) end", "did you mean `on_new_connection`?"),
        ("local x = \nfunction", "s.luau:2: "),
        ("\nos.execute('true')", "s.luau:2: scripts have no `os`"),
        ("\nnode.a:broadcast('x')", "s.luau:2: the node is not there yet"),
        ("while true do end", "s.luau:1: ran for more than"),
        ("function helper() end", "has no handler for `a`"),
    ] {
        let (status, text) = lines_with("", code).check();
        assert_eq!(status, 2, "{code}: {text}");
        assert!(text.contains(expected) && text.contains("node.toml:7:8: script.s.file: "), "{code}: {text}");
    }
    let inside =
        "[listen.a]\nbind = \"127.0.0.1:0\"\n[script.s]\ntarget = \"a\"\ncode = '''\n\nlocal x = = 1\n'''\n";
    let (status, text) = Files::new(&[("node.toml", inside)]).check();
    assert!(status == 2 && text.contains("node.toml:7: "), "{text}");
    for (keys, expected) in [
        ("target = \"b\"\ncode = \"function on_timeout() end\"", "script.s.target: no object is called `b`"),
        ("target = \"a\"", "has neither `code` nor `file`"),
        ("target = \"a\"\nfile = \"none.luau\"", "none.luau: there is no such file"),
        ("target = \"a\"\ncode = \"x\"\nfile = \"s.luau\"", "stands beside `code`"),
        (
            "target = \"a\"\nmax_time = \"1h\"\ncode = \"function on_listening() end\"",
            "is not from 1ms to 10s",
        ),
        (
            "target = \"a\"\nmax_memory = \"1KiB\"\ncode = \"function on_listening() end\"",
            "is not from 1MiB to 1GiB",
        ),
        ("code = \"function on_timeout() end\"", "nothing calls `on_timeout`"),
    ] {
        let config = format!("[listen.a]\nbind = \"127.0.0.1:0\"\n[script.s]\n{keys}\n");
        let (status, text) = Files::new(&[("node.toml", &config)]).check();
        assert!(status == 2 && text.contains(expected), "{keys}: {text}");
    }
    let wires = "[[connect]]\nsignal = \"a.message_received\"\nslot = \"script.s.rout\"\n";
    let (status, text) = lines_with(wires, "function route() end function on_listening() end").check();
    assert!(
        status == 2 && text.contains("`script.s` has no function `rout`; did you mean `route`?"),
        "{text}"
    );
}

#[test]
fn a_password_is_entered_and_verified() {
    let files = lines_with(
        "",
        "function on_message_received(conn, line)\n  local name, password = line:match('^(%S+) (%S+)$')\n  \
         conn:write(auth.verify(name, password) and 'welcome' or 'no')\nend\n",
    );
    let config = fs::read_to_string(files.path("node.toml")).unwrap() + "passwords = \"users\"\n";
    fs::write(files.path("node.toml"), config).unwrap();
    let enter = |name: &str, password: &[u8]| {
        run(Command::new(binary()).arg("passwd").arg(files.path("users")).arg(name), password)
    };
    let out = enter("ann", b"s3cret\n");
    assert!(
        out.status.success() && String::from_utf8_lossy(&out.stdout).starts_with("`ann` was entered in ")
    );
    let out = enter("a:b", b"x\n");
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).starts_with("error: passwd: `a:b` is no name; write "));
    assert!(!fs::read_to_string(files.path("users")).unwrap().contains("s3cret"));
    let node = files.run();
    let mut client = Client::of(node.address());
    for (line, answer) in [("ann s3cret", "welcome"), ("ann other", "no"), ("eve s3cret", "no")] {
        client.say(line);
        assert_eq!(client.hear(), answer, "{line}");
    }
    enter("ann", b"other\n");
    client.say("ann other");
    assert_eq!(client.hear(), "welcome");
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn what_is_known_of_a_connection_is_with_it() {
    let (_files, node) = lines(
        "function on_message_received(conn, line)\n  conn.data.n = (conn.data.n or 0) + 1\n  conn.name = line\n  \
         conn:write(conn.data.n .. ' ' .. conn.name .. ' ' .. conn.object .. ' ' .. conn.peer)\n  \
         conn:write(node.a.state .. ' ' .. #node.a:connections())\n  \
         if line == 'end' then conn:close() end\nend\nfunction on_disconnected(conn, reason, ends)\n  \
         log.info('gone', conn.data.n, reason, ends.received, tostring(conn:write('late')))\nend\n",
    );
    let mut client = Client::of(node.address());
    let own = client.stream.local_addr().unwrap();
    client.say("x");
    assert_eq!(client.hear(), format!("1 x a {own}"));
    assert_eq!(client.hear(), "listening 1");
    client.say("end");
    assert_eq!(client.hear(), format!("2 end a {own}"));
    assert_eq!(client.hear(), "listening 1");
    assert_eq!(read_all(&client.stream), (vec![], Ending::Fin));
    client.stream.shutdown(Shutdown::Write).unwrap();
    node.line("gone 2 closed 6 false");
    assert_eq!(node.stop().0, 0);
}

#[test]
fn the_page_on_scripts_names_every_key_with_its_default() {
    let page = signal_node::guide::PAGES.iter().find(|page| page.topic == "scripts").unwrap().text;
    let schema: serde_json::Value =
        serde_json::from_slice(&run(Command::new(binary()).arg("schema"), &[]).stdout).unwrap();
    let keys = &schema["properties"]["script"]["patternProperties"]["^[a-z][a-z0-9_]*$"]["properties"];
    let keys = keys.as_object().unwrap();
    assert_eq!(keys.len(), 8);
    for (name, key) in keys {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("{name} is not in the page"));
        assert!(row.ends_with(&format!("| `{}` | live |", key["default"])), "{row}");
    }
}
