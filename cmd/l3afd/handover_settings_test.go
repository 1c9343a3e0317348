package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"l3af/internal/testenv"
)

// The next daemon reads its settings anew: addresses that are left are not
// listened on any more, new ones are, and mistakes change nothing. The service
// manager learns who the daemon is, and so does the pid file.
func TestHandoverSettings(t *testing.T) {
	testenv.Clean(t)
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@l3af-handover-" + strconv.Itoa(os.Getpid()), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", manager.LocalAddr().String())
	said := func(want ...string) {
		t.Helper()
		for _, w := range want {
			buf := make([]byte, 200)
			manager.SetReadDeadline(time.Now().Add(20 * time.Second))
			n, err := manager.Read(buf)
			if err != nil || !strings.HasPrefix(string(buf[:n]), w) {
				t.Fatalf("said %q, %v, want %q", buf[:n], err, w)
			}
		}
	}
	var addrs [3]string // that nobody has
	var free []net.Listener
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = l.Addr().String()
		free = append(free, l)
	}
	for _, l := range free {
		l.Close()
	}
	config := filepath.Join(t.TempDir(), "l3afd.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	answers := func(addr string, want bool) {
		t.Helper()
		c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		r, err := c.Get("http://" + addr + "/healthz")
		if err == nil {
			r.Body.Close()
		}
		if (err == nil) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	write("listen: " + addrs[0] + "\nmetrics-listen: " + addrs[1])
	h := newHeir(t, "-config", config, "-pid-file", pidFile)
	h.start()
	said("READY=1")
	pid := h.pid()
	isIn := func() {
		t.Helper()
		if text, err := os.ReadFile(pidFile); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(pid) {
			t.Errorf("the pid file has %q, %v, want %d", text, err, pid)
		}
	}
	isIn()
	answers(addrs[0], true)

	write("lisen: " + addrs[2])
	h.signal(pid, syscall.SIGHUP)
	said("RELOADING=1\nMONOTONIC_USEC=", "READY=1")
	isIn()
	answers(addrs[0], true)

	write("listen: " + addrs[2] + "\nmetrics-listen: " + addrs[1])
	h.signal(pid, syscall.SIGHUP)
	old := pid
	pid = h.changes(old)
	said("RELOADING=1\nMONOTONIC_USEC=")
	// The old one tells who the new one is, and that one for itself.
	said(fmt.Sprintf("MAINPID=%d\nREADY=1", pid), "READY=1")
	isIn()
	answers(addrs[0], false)
	answers(addrs[1], true)
	answers(addrs[2], true)

	h.signal(pid, syscall.SIGTERM)
	said("STOPPING=1")
	h.until("it ends", func() error {
		if h.lives(pid) {
			return errors.New("it lives")
		}
		return nil
	})
	if _, err := os.Stat(pidFile); err == nil {
		t.Error("the pid file is left")
	}
}
