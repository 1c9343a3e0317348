package testenv

import (
	"net"
	"os"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Wrap(m).Run()) }

// The machine that tests get carries real packets and is empty otherwise.
func TestVethCarriesPackets(t *testing.T) {
	Clean(t)
	Netns(t, "a")
	Netns(t, "b")
	Veth(t, End{"a", "v0", []string{"10.0.0.1/24", "fd00::1/64"}}, End{"b", "v0", []string{"10.0.0.2/24", "fd00::2/64"}})
	for _, addr := range []string{"10.0.0.2:9", "[fd00::2]:9"} {
		var server net.PacketConn
		In(t, "b", func() {
			var err error
			if server, err = net.ListenPacket("udp", addr); err != nil {
				t.Fatal(err)
			}
		})
		defer server.Close()
		In(t, "a", func() {
			c, err := net.Dial("udp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		})
		server.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 16)
		n, _, err := server.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "hello" {
			t.Fatalf("%s: got %q, %v", addr, buf[:n], err)
		}
	}
	Bpffs(t)
}
