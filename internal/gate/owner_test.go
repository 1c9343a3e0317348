package gate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asSomebody, when set, makes the test binary a client that does what it is
// told line by line: see somebody.
const asSomebody = "L3AF_TEST_CLIENT"

func TestMain(m *testing.M) {
	if os.Getenv(asSomebody) != "" {
		client()
		return
	}
	os.Exit(m.Run())
}

// client connects, sends, closes, resets, and says so.
func client() {
	var c *net.TCPConn
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := strings.Fields(in.Text())
		var err error
		switch words[0] {
		case "connect": // ADDRESS PORT
			c, err = connectFrom(words[1], words[2])
		case "send":
			_, err = c.Write([]byte("PUT / HTTP/1.1\r\n\r\n"))
		case "half":
			err = c.CloseWrite()
		case "close":
			err = c.Close()
		case "reset":
			if err = c.SetLinger(0); err == nil {
				err = c.Close()
			}
		}
		fmt.Println("done", err)
	}
}

// connectFrom connects from a port, which may have been used just before; 0 is any.
func connectFrom(address, port string) (*net.TCPConn, error) {
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host), Port: n}, Timeout: 10 * time.Second,
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			ctl := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			if ctl != nil {
				return ctl
			}
			return err
		}}
	c, err := d.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// somebody is a client of another user.
type somebody struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
}

func newSomebody(t *testing.T, uid uint32) *somebody {
	t.Helper()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"client"}, Dir: "/", Env: append(os.Environ(), asSomebody+"=1"), Stderr: t.Output()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &somebody{t, in, bufio.NewScanner(out)}
}

// do has the client do something, and waits until it is done.
func (s *somebody) do(format string, args ...any) {
	s.t.Helper()
	if _, err := fmt.Fprintf(s.in, format+"\n", args...); err != nil {
		s.t.Fatal(err)
	}
	if !s.out.Scan() || s.out.Text() != "done <nil>" {
		s.t.Fatalf(format+": %s", append(args, s.out.Text())...)
	}
}

// The kernel says whose a connection is, and nobody becomes root by closing
// it, or by leaving its port to a process of root.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, to become others")
		}
		t.Skip("needs root, to become others")
	}
	const nobody = 65534
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Log(err)
			continue
		}
		defer l.Close()
		address := l.Addr().String()
		accept := func() net.Conn {
			t.Helper()
			_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		}
		is := func(what string, c net.Conn, want string) {
			t.Helper()
			uid, err := Owner(c)
			got := fmt.Sprint(uid)
			if err != nil {
				got = err.Error()
			}
			if got != want && (err == nil || want == "0" || !strings.Contains(got, want)) {
				t.Errorf("%s: %s: %s, want %s", at, what, got, want)
			}
		}
		port := func(c net.Conn) int { return c.RemoteAddr().(*net.TCPAddr).Port }

		root, other := newSomebody(t, 0), newSomebody(t, nobody)
		root.do("connect %s 0", address)
		is("root", accept(), "0")
		other.do("connect %s 0", address)
		c := accept()
		is("nobody", c, "65534")
		other.do("send")
		is("nobody, with something to read", c, "65534")

		// A socket that is closed belongs to root, says the kernel.
		other.do("close")
		is("closed", c, "closed")
		other.do("connect %s 0", address)
		other.do("send")
		other.do("close")
		is("closed before it is accepted", accept(), "closed")
		other.do("connect %s 0", address)
		c = accept()
		other.do("half")
		is("closed for writing", c, "closed")
		other.do("close")

		// Its port is free at once, and a process of root has it next.
		other.do("connect %s 0", address)
		other.do("send")
		c = accept()
		other.do("reset")
		root.do("close")
		root.do("connect %s %d", address, port(c))
		is("root's connection from the same port", accept(), "0")
		is("reset, and root has the port", c, "closed")
		root.do("reset")
		is("reset by root", c, "ask for the owner")

		// A listener of root on the client's port is not the client.
		other.do("connect %s 0", address)
		c = accept()
		other.do("reset")
		hold, err := net.Listen("tcp", c.RemoteAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		is("reset, and root listens on the port", c, "closed")
		hold.Close()
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := Owner(a); err == nil {
		t.Error("a pipe has an owner")
	}
}

// Answers of the kernel that are not what they should be are errors.
func FuzzSocket(f *testing.F) {
	f.Add(make([]byte, diagMessageSize))
	f.Add([]byte{unix.AF_INET6, established})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := readSocket(b)
		if (err == nil) != (len(b) >= diagMessageSize) {
			t.Errorf("%d bytes: %+v, %v", len(b), s, err)
		}
	})
}

// No rule admits a certificate without names, whatever it says.
func FuzzRule(f *testing.F) {
	for _, s := range []string{"a.b", `.*`, "*.a", "192.0.2.1", "(", "", "a|", `\z`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := readRule(s)
		if err == nil && r.admits(gateless) {
			t.Errorf("%q admits a certificate without names", s)
		}
	})
}
