package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"l3af/internal/api/apitest"
)

// asSomebody, when set, makes the test binary send one write and one read to
// the socket or address it names, print the answers, and end. The variable
// with _HEADERS behind its name holds a header to send.
const asSomebody = "L3AF_TEST_ASK"

func TestMain(m *testing.M) {
	if socket := os.Getenv(asSomebody); socket != "" {
		os.Exit(ask(socket))
	}
	os.Exit(m.Run())
}

func ask(socket string) int {
	c := dial("unix", socket)
	if !strings.HasPrefix(socket, "/") {
		c = dial("tcp", socket)
	}
	name, value, _ := strings.Cut(os.Getenv(asSomebody+"_HEADERS"), ": ")
	for _, method := range []string{"PUT", "GET"} {
		req, _ := http.NewRequestWithContext(context.Background(), method, "http://l3afd/v1/state", strings.NewReader(document))
		switch {
		case !strings.HasPrefix(socket, "/") && name != "Host":
			req.Host = socket
		case name == "Host":
			req.Host = value
		}
		if name != "" && name != "Host" {
			req.Header.Set(name, value)
		}
		resp, err := c.Do(req)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Printf("%s %d %s\n", method, resp.StatusCode, strings.TrimSpace(string(body)))
	}
	return 0
}

// Who a peer is decides the kernel: root and members of the group write, by
// primary or supplementary group; everybody reads.
func TestPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, to become others")
		}
		t.Skip("needs root, to become others")
	}
	const nobody, daemon = 65534, 1 // nobody:nogroup, and the group daemon of every Linux
	for _, tt := range []struct {
		name       string
		cred       syscall.Credential
		group      string
		write      int
		says, isBy string
	}{
		{"root", syscall.Credential{}, "no-such-group", 200, `"changed":true`, "root (uid 0)"},
		{"member", syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{7, daemon, 9}}, "daemon", 200, `"changed":true`, "nobody (uid 65534)"},
		{"primary", syscall.Credential{Uid: nobody, Gid: daemon}, "daemon", 200, `"changed":true`, "nobody (uid 65534)"},
		{"other", syscall.Credential{Uid: nobody, Gid: nobody, Groups: []uint32{7, 9}}, "daemon", 403, "root and members of the group daemon may write", ""},
		{"nogroup", syscall.Credential{Uid: nobody, Gid: nobody}, "no-such-group", 403, "groupadd no-such-group", ""},
		{"nameless", syscall.Credential{Uid: 54321, Gid: 54321}, "daemon", 403, "uid 54321 may only read: permission denied", ""},
		{"many", syscall.Credential{Uid: nobody, Gid: nobody, Groups: append(many(1000, 500), daemon)}, "daemon", 200, `"changed":true`, "nobody (uid 65534)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			node := &apitest.Node{}
			socket, _ := serve(t, node, Options{Group: tt.group})
			cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"ask"}, Dir: "/", Env: append(os.Environ(), asSomebody+"="+socket)}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &tt.cred}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			put, get, _ := strings.Cut(string(out), "\n")
			if !strings.HasPrefix(put, fmt.Sprintf("PUT %d ", tt.write)) || !strings.Contains(put, tt.says) {
				t.Errorf("got %s, want %d %s", put, tt.write, tt.says)
			}
			if !strings.HasPrefix(get, "GET 200 ") {
				t.Errorf("got %s", get)
			}
			if by := node.Current(); tt.isBy != "" && (by == nil || by.By != tt.isBy) || tt.isBy == "" && by != nil {
				t.Errorf("applied: %+v, want by %s", by, tt.isBy)
			}
		})
	}
}

func many(from, n uint32) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = from + uint32(i)
	}
	return list
}
