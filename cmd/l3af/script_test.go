package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"l3af/internal/daemon"
	"l3af/internal/gate/gatetest"
	"l3af/internal/testenv"
)

func TestMain(m *testing.M) {
	testscript.Main(testenv.Wrap(m), map[string]func(){
		"l3af":  main,
		"l3afd": func() { os.Exit(daemon.Main(os.Args[1:])) },
	})
}

// serial runs scripts one after the other: they share the machine, and each
// must leave nothing behind.
type serial struct{ *testing.T }

func (serial) Parallel() {}

func (serial) Verbose() bool { return testing.Verbose() }

func (s serial) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) { f(serial{t}) })
}

// TestScript runs testdata/script: they document every command. Each script
// has a machine of its own with these commands besides testscript's:
//
//	daemon [FLAG…]          starts l3afd and waits until it answers
//	halt [KILL]             ends it with SIGTERM, or with SIGKILL
//	netns NAME…             makes network namespaces
//	veth NS/IF/ADDR… NS/IF/ADDR…  joins two of them; more addresses follow with /
//	unlink NS/IF            deletes an interface
//	send N NS/FROM NS/TO    sends N UDP packets, prints how many arrived
//	certificates            writes ca.pem, and NAME.pem and NAME.key of server, client and stranger
//	serve DIR               serves its files over HTTP at $SERVER
//	capture FILE FROM TO…   writes a pcap of UDP packets; without FROM and TO, prints one
//	exits CODE COMMAND…     the command must end with the exit code
//	until PATTERN COMMAND…  repeats the command until its output matches
//	nobody COMMAND…         runs it as a user without rights
func TestScript(t *testing.T) {
	testenv.Root(t)
	testscript.RunT(serial{t}, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			tb := e.T().(serial)
			testenv.Clean(tb)
			m := &machine{TB: tb, dir: e.WorkDir}
			e.Values[machineKey] = m
			e.Setenv("L3AF_SOCKET", m.path("l3afd.sock"))
			e.Setenv("BPFFS", m.path("bpf"))
			e.Setenv("STATE", m.path("state"))
			e.Setenv("TZ", "UTC")
			objects, err := filepath.Abs("../../internal/kernel/testdata")
			if err != nil {
				return err
			}
			e.Setenv("OBJECTS", objects)
			for name, path := range map[string]string{
				"SPEAKS": "testdata/speaks.bpf.o", "STILL": "testdata/still.bpf.o", "ZOO": "../../internal/testenv/zoo/testdata/zoo.bpf.o",
			} {
				object, err := filepath.Abs(path)
				if err != nil {
					return err
				}
				e.Setenv(name, object)
			}
			e.Defer(m.close)
			// For nobody.
			return errors.Join(os.Chmod(e.WorkDir, 0o755), os.Chmod(filepath.Dir(e.WorkDir), 0o755))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": command((*machine).daemon),
			"halt":   command((*machine).halt),
			"netns":  command((*machine).netns),
			"veth":   command((*machine).veth),
			"unlink": command((*machine).unlink),
			"send":   command((*machine).send),
			"serve":  command((*machine).serve),
			"exits":  exits,

			"certificates": command((*machine).certificates),

			"until":  until,
			"nobody": nobody,

			"capture": capture,
		},
		RequireExplicitExec: false,
	})
}

type key struct{}

var machineKey key

// machine is what a script has.
type machine struct {
	testing.TB
	dir   string
	l3afd *exec.Cmd
	ended chan error
}

func command(f func(*machine, *testscript.TestScript, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		err := f(ts.Value(machineKey).(*machine), ts, args)
		switch {
		case neg && err == nil:
			ts.Fatalf("did not fail")
		case neg:
			fmt.Fprintln(ts.Stderr(), err)
		default:
			ts.Check(err)
		}
	}
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

func (m *machine) close() {
	if m.l3afd != nil {
		_ = m.end(syscall.SIGKILL)
	}
	testenv.EndBelow(m.TB, m.dir)
	// The daemon mounted it.
	if err := unix.Unmount(m.path("bpf"), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		m.Errorf("unmount bpffs: %v", err)
	}
}

func (m *machine) daemon(ts *testscript.TestScript, args []string) error {
	exe, err := exec.LookPath("l3afd")
	if err != nil {
		return err
	}
	log, err := os.OpenFile(m.path("l3afd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	m.l3afd = exec.Command(exe, append([]string{
		"-socket", m.path("l3afd.sock"), "-state-dir", m.path("state"), "-bpffs", m.path("bpf"),
	}, args...)...)
	m.l3afd.Stdout, m.l3afd.Stderr, m.l3afd.Dir = log, log, m.dir
	if err := m.l3afd.Start(); err != nil {
		return err
	}
	m.ended = make(chan error, 1)
	go func(cmd *exec.Cmd) { m.ended <- cmd.Wait() }(m.l3afd)
	for range 1000 {
		c, err := net.Dial("unix", m.path("l3afd.sock"))
		if err == nil {
			return c.Close()
		}
		select {
		case err := <-m.ended:
			m.l3afd = nil
			return fmt.Errorf("l3afd ended: %v\n%s", err, ts.ReadFile(m.path("l3afd.log")))
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("l3afd does not answer:\n%s", ts.ReadFile(m.path("l3afd.log")))
}

// certificates writes ca.pem, and for server, client and stranger NAME.pem and
// NAME.key.
func (m *machine) certificates(*testscript.TestScript, []string) error {
	ca := gatetest.CA(m, "ca")
	gatetest.WriteCA(m, m.path("ca.pem"), ca)
	for name, pair := range map[string]*gatetest.Pair{
		"server": gatetest.Server(m, ca), "client": gatetest.Client(m, ca, "ops-1.example.com"), "stranger": gatetest.Client(m, ca, "dev.example.com"),
	} {
		certificate, key := pair.PEM(m)
		gatetest.Replace(m, m.path(name+".pem"), certificate)
		gatetest.Replace(m, m.path(name+".key"), key)
	}
	return nil
}

func (m *machine) halt(_ *testscript.TestScript, args []string) error {
	if m.l3afd == nil {
		return errors.New("no daemon runs")
	}
	if len(args) == 1 && args[0] == "KILL" {
		return m.end(syscall.SIGKILL)
	}
	if err := m.end(syscall.SIGTERM); err != nil {
		return fmt.Errorf("l3afd ended: %w", err)
	}
	return nil
}

func (m *machine) end(s syscall.Signal) error {
	cmd := m.l3afd
	m.l3afd = nil
	if err := cmd.Process.Signal(s); err != nil {
		return err
	}
	select {
	case err := <-m.ended:
		if s == syscall.SIGKILL {
			return nil
		}
		return err
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		return errors.New("it does not end")
	}
}

func (m *machine) netns(_ *testscript.TestScript, args []string) error {
	for _, name := range args {
		testenv.Netns(m.TB, name)
	}
	return nil
}

func (m *machine) veth(_ *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: veth NS/IF/ADDR… NS/IF/ADDR…")
	}
	var ends [2]testenv.End
	for i, a := range args {
		parts := strings.Split(a, "/")
		if len(parts) < 2 {
			return fmt.Errorf("%s: not NS/IF", a)
		}
		ends[i] = testenv.End{Netns: parts[0], Name: parts[1]}
		for _, addr := range parts[2:] {
			ip, err := netip.ParseAddr(addr)
			if err != nil {
				return err
			}
			bits := 24
			if ip.Is6() {
				bits = 64
			}
			ends[i].Addrs = append(ends[i].Addrs, netip.PrefixFrom(ip, bits).String())
		}
	}
	testenv.Veth(m.TB, ends[0], ends[1])
	return nil
}

func (m *machine) unlink(_ *testscript.TestScript, args []string) error {
	ns, name, _ := strings.Cut(args[0], "/")
	testenv.DeleteLink(m.TB, ns, name)
	return nil
}

// send numbers its packets and counts the different ones that arrive.
func (m *machine) send(ts *testscript.TestScript, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: send N NS/FROM NS/TO")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	fromNS, from, _ := strings.Cut(args[1], "/")
	toNS, to, _ := strings.Cut(args[2], "/")
	var server net.PacketConn
	var client net.Conn
	testenv.In(m.TB, toNS, func() { server, err = net.ListenPacket("udp", net.JoinHostPort(to, "0")) })
	if err != nil {
		return err
	}
	defer server.Close()
	testenv.In(m.TB, fromNS, func() {
		client, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}).Dial("udp", server.LocalAddr().String())
	})
	if err != nil {
		return err
	}
	defer client.Close()
	for i := range n {
		if _, err := client.Write([]byte(strconv.Itoa(i))); err != nil {
			return err
		}
		if i%16 == 15 {
			time.Sleep(time.Millisecond)
		}
	}
	seen := map[string]bool{}
	buf := make([]byte, 64)
	for len(seen) < n {
		_ = server.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		k, _, err := server.ReadFrom(buf)
		if err != nil {
			break
		}
		seen[string(buf[:k])] = true
	}
	fmt.Fprintf(ts.Stdout(), "%d of %d arrived\n", len(seen), n)
	return nil
}

func (m *machine) serve(ts *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: serve DIR")
	}
	s := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	m.Cleanup(s.Close)
	ts.Setenv("SERVER", s.URL)
	return nil
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND…")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for range 200 {
		if ts.Exec(args[1], args[2:]...) == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("the output never matched %q", args[0])
}

func nobody(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: nobody COMMAND…")
	}
	exe, err := exec.LookPath(args[0])
	ts.Check(err)
	for dir := filepath.Dir(exe); dir != "/"; dir = filepath.Dir(dir) {
		if strings.HasPrefix(filepath.Base(dir), "testscript-main") {
			ts.Check(os.Chmod(dir, 0o755))
			break
		}
	}
	cmd := exec.Command(exe, args[1:]...)
	cmd.Env = []string{"L3AF_SOCKET=" + ts.Getenv("L3AF_SOCKET"), "HOME=/"}
	cmd.Dir = ts.MkAbs(".")
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		ts.Check(err)
	}
	if neg == (err == nil) {
		ts.Fatalf("%v", err)
	}
}
