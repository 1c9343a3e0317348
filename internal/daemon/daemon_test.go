package daemon

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
	s, err := parse([]string{"-socket", filepath.Join(dir, "run", "l3afd.sock"), "-listen", "127.0.0.1:0", "-state-dir", filepath.Join(dir, "state"),
		"-bpffs", filepath.Join(testenv.Bpffs(t), "l3af"), "-pid-file", filepath.Join(dir, "pid"), "-log-file", filepath.Join(dir, "log")})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- run(ctx, s, nil) }()
		if got := said(); got != "READY=1" {
			t.Errorf("said %q", got)
		}
		if pid, err := os.ReadFile(s.pidFile); strings.TrimSpace(string(pid)) != strconv.Itoa(os.Getpid()) {
			t.Errorf("pid file: %q, %v", pid, err)
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
		for _, file := range []string{s.socket, s.pidFile} {
			if _, err := os.Stat(file); err == nil {
				t.Errorf("%s is left", file)
			}
		}
		if text, err := os.ReadFile(s.logFile); err != nil || !strings.Contains(string(text), "msg=stopping") && !strings.Contains(string(text), "stopping;") {
			t.Errorf("log: %q, %v", text, err)
		}
	}
}
