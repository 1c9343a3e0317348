package daemon

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"l3af"
	"l3af/client"
	"l3af/internal/testenv"
)

// beDaemon makes the test binary l3afd.
const beDaemon = "L3AFD_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(beDaemon) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(testenv.Wrap(m).Run())
}

// The daemon outlives the reader of its log.
func TestLogReaderGoes(t *testing.T) {
	testenv.Root(t)
	testenv.Clean(t)
	dir := t.TempDir()
	c := &client.Client{Socket: filepath.Join(dir, "s")}
	cmd := exec.Command(os.Args[0], "-socket", c.Socket, "-state-dir", filepath.Join(dir, "state"), "-bpffs", filepath.Join(testenv.Bpffs(t), "l3af"))
	cmd.Env = append(os.Environ(), beDaemon+"=1")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	if _, err := bufio.NewReader(log).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	log.Close()
	deadline := time.Now().Add(20 * time.Second)
	for n := 0; n < 3; { // each is logged
		if _, err := c.Rollback(t.Context(), 0, -1); errors.Is(err, l3af.ErrNotFound) {
			n++
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Flags win over the file, the file over the defaults; every mistake is told.
func TestSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "l3afd.yaml")
	defaults := settings{socket: DefaultSocket, stateDir: DefaultStateDir, bpffs: DefaultBpffs, logFormat: "text"}
	with := func(change func(*settings)) settings {
		s := defaults
		s.config = file
		change(&s)
		return s
	}
	for _, c := range []struct {
		config string
		args   []string
		want   settings
		err    string // part of it
		usage  bool
	}{
		{want: defaults},
		{config: "socket: /a\nlisten: ':80'\nstate-dir: /b\nbpffs: /c\nlog-format: json", want: settings{file, "/a", ":80", "/b", "/c", "json", false}},
		{config: "socket: /a\nstate-dir: /b", args: []string{"-socket", "/x", "--bpffs=/y"}, want: with(func(s *settings) {
			s.socket, s.stateDir, s.bpffs = "/x", "/b", "/y"
		})},
		{config: `{"socket": "/a"}`, args: []string{"-socket", DefaultSocket}, want: with(func(*settings) {})},
		{config: "sokcet: /a\nlisten: 80", err: "listen: must be text\nsokcet: unknown key (did you mean \"socket\"?)"},
		{config: "- socket", err: "must be keys and values"},
		{config: "socket: /a\nsocket: /b", err: "socket"},
		{config: "log-format: xml", err: `log-format "xml": must be text or json`, usage: true},
		{args: []string{"-config", filepath.Join(t.TempDir(), "none")}, err: "no such file"},
		{args: []string{"-sokcet", "x"}, err: "-sokcet", usage: true},
		{args: []string{"start"}, err: `unexpected argument "start"`, usage: true},
		{args: []string{"-bpffs", ""}, err: "bpffs is empty", usage: true},
	} {
		args := c.args
		if c.config != "" {
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append([]string{"-config", file}, args...)
		}
		got, err := parse(args)
		if c.err == "" && (err != nil || got != c.want) {
			t.Errorf("%q %q: got %+v, %v, want %+v", c.config, c.args, got, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || errors.As(err, new(errUsage)) != c.usage) {
			t.Errorf("%q %q: error %v, want %q (usage %v)", c.config, c.args, err, c.err, c.usage)
		}
	}
}

// The service manager is told when the API answers and when it will not any
// more; the daemon ends in good order and can be started again at once.
func TestNotify(t *testing.T) {
	testenv.Root(t)
	testenv.Clean(t)
	dir := t.TempDir()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@l3af-test-notify", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", "@l3af-test-notify")
	said := func() string {
		buf := make([]byte, 100)
		manager.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, err := manager.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	s := settings{
		socket: filepath.Join(dir, "run", "l3afd.sock"), listen: "127.0.0.1:0", stateDir: filepath.Join(dir, "state"),
		bpffs: filepath.Join(testenv.Bpffs(t), "l3af"), logFormat: "text",
	}
	for range 2 {
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- run(ctx, s, nil) }()
		if got := said(); got != "READY=1" {
			t.Errorf("said %q", got)
		}
		if _, err := (&client.Client{Socket: s.socket}).Status(ctx); err != nil {
			t.Error(err)
		}
		stop()
		if got := said(); got != "STOPPING=1" {
			t.Errorf("said %q", got)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.socket); err == nil {
			t.Error("the socket is left")
		}
	}
}
