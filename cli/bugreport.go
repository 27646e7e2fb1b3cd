package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/cli/archive"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/local/upsock"
)

const (
	// pieceTime is how long one text of a report may take, piecesAtOnce how many are fetched together.
	pieceTime    = 30 * time.Second
	piecesAtOnce = 8
	mebibyte     = 1 << 20
)

// collection is what a report is to have.
type collection struct {
	file             string
	include, exclude []string
	since            time.Duration
	tail, proxies    int
	total, piece     int64 // MiB
	dryRun           bool
}

// wants reports whether a namespace is to be in it.
func (c *collection) wants(namespace string) bool {
	return (len(c.include) == 0 || slices.Contains(c.include, namespace)) && !slices.Contains(c.exclude, namespace)
}

// chapter is a group of texts, for people who wait.
type chapter struct {
	name   string
	pieces []archive.Piece
}

func (a *app) bugReport() *cobra.Command {
	var o collection
	cmd := &cobra.Command{
		Use:   "bug-report [flags]",
		Short: "pack what somebody who is to help needs into one file",
		Long: `Pack what somebody who is to help needs into one file: versions, configuration,
findings, what the control plane knows, of proxies state, metrics, configuration
and log, and in a cluster also Kubernetes objects, events and logs of the mesh.

Values of Secrets, keys, tokens and passwords, of environment variables that are
not the mesh's, and of queries in logs are taken out. Names, addresses and paths
are not: look into it before you give it away. What cannot be had is listed in
README.txt of the archive, and does not keep the rest out.

--include and --exclude choose whose objects, proxies, events and logs are taken;
lists that the control plane makes are whole.`,
		Example: `  weir bug-report
  weir bug-report --include shop --include istio-system --since 30m
  weir bug-report --exclude payroll --max-size 20 -f /tmp/report.tar.gz
  weir bug-report --dry-run   # only list what it would have`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := cmd.Flags()
	f.StringVarP(&o.file, "file", "f", "", "`file` to write (default weir-bug-report-TIME.tar.gz)")
	f.StringArrayVar(&o.include, "include", nil, "only this `namespace`; may be repeated")
	f.StringArrayVar(&o.exclude, "exclude", nil, "not this `namespace`; may be repeated")
	f.DurationVar(&o.since, "since", time.Hour, "logs and events of so long; logs of \"weir up\" are taken by --tail")
	f.IntVar(&o.tail, "tail", 5000, "last `lines` of each log")
	f.IntVar(&o.proxies, "proxies", 50, "at most `n` proxies; those with trouble first")
	f.Int64Var(&o.total, "max-size", 200, "`MiB` of all texts, before they are packed")
	f.Int64Var(&o.piece, "max-part", 20, "`MiB` of each text; of more its first and last parts")
	f.BoolVar(&o.dryRun, "dry-run", false, "list what would be in it, and write nothing")
	_ = cmd.MarkFlagFilename("file", "tar.gz", "tgz")
	for _, n := range []string{"include", "exclude"} {
		_ = cmd.RegisterFlagCompletionFunc(n, a.completeNamespaces)
	}
	noValues(cmd, "since", "tail", "proxies", "max-size", "max-part")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.since <= 0 || o.tail < 1 || o.proxies < 0 || o.total < 1 || o.piece < 1 {
			return usage("for example --since 30m --tail 1000 --max-size 50", "--since, --tail, --max-size and --max-part are more than nothing")
		}
		return a.collect(cmd.Context(), &o)
	}
	return cmd
}

func (a *app) collect(ctx context.Context, o *collection) error {
	now := time.Now()
	folder := "weir-bug-report-" + now.UTC().Format("20060102-150405")
	file := cmp.Or(o.file, folder+".tar.gz")
	a.errs.printf("looking for what there is\n")
	parts, missing, end := a.parts(ctx, o)
	defer end()
	if o.dryRun {
		for _, p := range parts {
			for _, x := range p.pieces {
				a.out.printf("%s\n", x.Name)
			}
		}
		for what, err := range missing {
			a.errs.printf("not there: %s: %v\n", what, err)
		}
		return nil
	}
	// Never through a link that somebody put there, and only for its owner: it may say more than it should.
	w, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return hinted("-f names another file", "writing the report: %w", err)
	}
	defer func() { _ = w.Close() }()
	b := archive.New(w, folder, now, archive.Limits{Total: o.total * mebibyte, Piece: o.piece * mebibyte, Each: pieceTime, AtOnce: piecesAtOnce})
	for what, err := range missing {
		b.Miss(what, err)
	}
	for _, p := range parts {
		a.errs.printf("%s: %s\n", p.name, count(len(p.pieces), "text"))
		const often = 100 // texts between two lines
		b.Add(ctx, p.pieces, func(done, all int) {
			if done%often == 0 && done < all {
				a.errs.printf("%s: %d of %d\n", p.name, done, all)
			}
		})
	}
	written, missed, err := b.Close()
	if err == nil {
		err = w.Sync()
	}
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if len(missed) > 0 {
		a.errs.printf("%s could not be had, or not whole: see README.txt in it\n", count(len(missed), "text"))
	}
	a.errs.printf("%s; look into it before you give it away\n", count(written, "text"))
	a.out.printf("%s\n", file)
	return nil
}

// parts are what there is to be had, and why something is not. end is called when it has been.
func (a *app) parts(ctx context.Context, o *collection) (all []chapter, missing map[string]error, end func()) {
	missing = map[string]error{}
	text := func(s string) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(s), nil }
	}
	all = append(all, chapter{"this program", []archive.Piece{{Name: "version.txt", Fetch: text("weir " + a.Version + "\n")}}})
	c, err := a.mesh()
	if err != nil {
		missing["control-plane"] = err
	} else {
		all = append(all, chapter{"control plane", planePieces(c, o)})
	}
	if a.cluster != nil {
		more, end := a.clusterParts(ctx, c, o, missing)
		return append(all, more...), missing, end
	}
	return append(all, a.localParts(ctx, c, o, missing)...), missing, func() {}
}

// planePieces are what the control plane answers.
func planePieces(c *client.Client, o *collection) []archive.Piece {
	window := o.since.String()
	var out []archive.Piece
	for name, at := range map[string]string{
		"status.json": "/api/v1/status", "proxies.json": "/api/v1/proxies", "workloads.json": "/api/v1/workloads", "services.json": "/api/v1/services", "findings.json": "/api/v1/findings",
		"objects.json": "/api/v1/objects", "events.json": "/api/v1/events", "edges.json": "/api/v1/edges?since=" + window, "ejections.json": "/api/v1/ejections", "identity.json": "/api/v1/identity",
		"why.json": "/api/v1/why?last=50", "mtls.json": "/api/v1/mtls?window=" + window, "metrics.txt": "/metrics",
	} {
		out = append(out, archive.Piece{Name: "control-plane/" + name, Fetch: func(ctx context.Context) ([]byte, error) { return c.Get(ctx, at) }})
	}
	slices.SortFunc(out, func(a, b archive.Piece) int { return strings.Compare(a.Name, b.Name) })
	return append(out, archive.Piece{Name: "objects.yaml", Fetch: func(ctx context.Context) ([]byte, error) {
		data, err := c.Raw(ctx, "", "", "")
		return archive.OfNamespaces(data, o.wants), err
	}})
}

// proxyTexts are what a proxy is asked, as files.
var proxyTexts = []struct{ file, path string }{
	{"server_info.json", "/server_info"}, {"ready.txt", "/ready"}, {"state.json", "/state"}, {"identity.json", "/identity"}, {"ondemand.json", "/ondemand"}, {"unknown_hosts.json", "/unknown_hosts"},
	{"why.json", "/why"}, {"stats.txt", "/stats/prometheus"}, {"clusters.txt", "/clusters"}, {"listeners.txt", "/listeners"}, {"certs.json", "/certs"}, {"config_dump.json", "/config_dump?include_eds"},
}

// proxyPieces are what the admin interface of a proxy answers.
func proxyPieces(folder string, dial func(ctx context.Context, network, address string) (net.Conn, error)) (out []archive.Piece) {
	h := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for _, x := range proxyTexts {
		out = append(out, archive.Piece{Name: path.Join(folder, x.file), Fetch: func(ctx context.Context) ([]byte, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+x.path, nil)
			if err != nil {
				return nil, err
			}
			resp, err := h.Do(req)
			if err != nil {
				return nil, err
			}
			defer func() { _ = resp.Body.Close() }()
			data, err := io.ReadAll(io.LimitReader(resp.Body, mostOfProxy))
			if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
				err = fmt.Errorf("the proxy answers %s", resp.Status)
			}
			return data, err
		}})
	}
	return out
}

// mostOfProxy bounds what a proxy may answer: half a text would not be gone through.
const mostOfProxy = 256 * mebibyte

// worst orders proxies: first those with trouble, of as many as are wanted; the others are missing.
func worst(ctx context.Context, c *client.Client, names []string, o *collection, missing map[string]error) []string {
	trouble := map[string]bool{}
	if c != nil {
		if all, _, err := c.Proxies(ctx); err == nil {
			for _, p := range all {
				trouble[p.Name] = p.Behind != nil || len(p.Rejected) > 0
			}
			for _, n := range names {
				if _, connected := trouble[n]; !connected {
					trouble[n] = true
				}
			}
		}
	}
	slices.SortStableFunc(names, func(a, b string) int {
		if trouble[a] != trouble[b] {
			if trouble[a] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	if len(names) > o.proxies {
		missing[fmt.Sprintf("proxies of %d pods", len(names)-o.proxies)] = fmt.Errorf("only %d are taken: --proxies", o.proxies)
		names = names[:o.proxies]
	}
	return names
}

// localParts are the proxies and logs of `weir up`.
func (a *app) localParts(ctx context.Context, c *client.Client, o *collection, missing map[string]error) (out []chapter) {
	var names []string
	for _, n := range a.proxyNames() {
		if ns, _, _ := strings.Cut(n, "/"); o.wants(ns) {
			names = append(names, n)
		}
	}
	var pieces []archive.Piece
	for _, n := range worst(ctx, c, names, o, missing) {
		socket := a.adminSocket(n)
		pieces = append(pieces, proxyPieces("proxies/"+n, func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		})...)
	}
	out = append(out, chapter{"proxies", pieces})
	socket := client.UpSocket(a.state)
	if _, err := os.Stat(socket); err != nil {
		missing["logs"] = fmt.Errorf("no `weir up` keeps them in %s", filepath.Base(a.state))
		return out
	}
	logs := []archive.Piece{{Name: "control-plane/log.txt", Fetch: upLog(socket, upsock.LogsOptions{Workload: controlPlaneLog, Tail: o.tail}, o)}}
	for _, n := range names {
		ns, pod, _ := strings.Cut(n, "/")
		logs = append(logs, archive.Piece{Name: "proxies/" + n + "/log.txt", Fetch: upLog(socket, upsock.LogsOptions{Namespace: ns, Workload: pod, Proxy: true, Tail: o.tail}, o)})
	}
	return append(out, chapter{"logs", logs})
}

// upLog reads a log that `weir up` keeps, of which it gives no more than is wanted.
func upLog(socket string, l upsock.LogsOptions, o *collection) func(context.Context) ([]byte, error) {
	return func(ctx context.Context) ([]byte, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		type result struct {
			data []byte
			err  error
		}
		got := make(chan result, 1)
		go func() { // ends when nobody writes any more
			data, err := io.ReadAll(io.LimitReader(r, 2*o.piece*mebibyte))
			_ = r.Close() // who writes more than that fails
			got <- result{data, err}
		}()
		err = upsock.Logs(ctx, socket, l, w)
		_ = w.Close()
		all := <-got
		return all.data, cmp.Or(err, all.err)
	}
}
