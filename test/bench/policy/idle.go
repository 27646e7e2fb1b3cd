package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory is what a proxy holds, in bytes: private memory of the process, and what lives of it after a collection.
type memory struct{ private, live float64 }

// idle holds connections that have each moved a byte, and says what one of them takes of memory in both proxies: as a relay has it, a socket on either side.
// Each service has a mesh of its own, because memory that was used once is used again.
func idle(ctx context.Context, o options) error {
	fmt.Printf("%-10s %24s %24s\n", "bytes of", "client's", "server's (alive)")
	for _, service := range []string{plain, mutual} {
		var grown [2]memory
		if err := hold(ctx, o, service, &grown); err != nil {
			return fmt.Errorf("idle connections of %s: %w", service, err)
		}
		fmt.Printf("%-10s", service)
		for _, g := range grown {
			fmt.Printf(" %24s", fmt.Sprintf("%.0f (%.0f)", g.private/float64(o.idle), g.live/float64(o.idle)))
		}
		fmt.Println()
	}
	return nil
}

func hold(ctx context.Context, o options, service string, grown *[2]memory) error {
	m, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer m.stop()
	r := &row{service: service}
	var held []net.Conn
	defer func() {
		for _, c := range held {
			_ = c.Close()
		}
	}()
	sides := []string{"web", service}
	var before [2]memory
	for i := range o.idle + 1 { // the first one for what is made once
		if i == 1 {
			time.Sleep(time.Second)
			for j, w := range sides {
				if before[j], err = m.memory(ctx, w); err != nil {
					return err
				}
			}
		}
		c, err := m.dial(ctx, r)
		if err != nil {
			return err
		}
		held = append(held, c)
		if err := turn(c, make([]byte, 1)); err != nil {
			return err
		}
	}
	time.Sleep(time.Second)
	for j, w := range sides {
		now, err := m.memory(ctx, w)
		if err != nil {
			return err
		}
		grown[j] = memory{now.private - before[j].private, now.live - before[j].live}
	}
	return nil
}

// memory of a workload's proxy: first as it is, then what a collection leaves.
func (m *mesh) memory(ctx context.Context, workload string) (v memory, err error) {
	kb, err := field(filepath.Join("/proc", strconv.Itoa(m.pids[workload]), "status"), "RssAnon:")
	if err != nil {
		return v, err
	}
	file := filepath.Join(m.dir, workload+".heap")
	if err := save(ctx, m.admin(workload), "http://admin/debug/pprof/heap?gc=1&debug=1", file); err != nil {
		return v, err
	}
	live, err := field(file, "# HeapAlloc =")
	return memory{kb * 1024, live}, err
}

// field is the number behind a name, in a text with one a line.
func field(file, name string) (float64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), name); ok {
			return strconv.ParseFloat(strings.Fields(text)[0], 64)
		}
	}
	return 0, fmt.Errorf("%s does not say %q", file, name)
}

// admin speaks to the admin interface of a workload's proxy.
func (m *mesh) admin(workload string) *http.Client {
	socket := filepath.Join(m.dir, "state", "run", "proxies", "shop_"+workload+"-0", "admin.sock")
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}
