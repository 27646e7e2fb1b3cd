// Package archive packs what somebody who is to help needs into one archive.
//
// Texts enter by name, as functions that fetch them; a tar.gz leaves, in which every text has gone through Redact, is no longer than
// is permitted, and is there or is listed with the reason why it is not. What cannot be had fails nothing else. Package cli decides
// what is collected and calls it; a Archive is safe for concurrent use.
package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"
)

// Piece is one text of an archive.
type Piece struct {
	Name string // path in the archive; .json and .yaml are gone through as such
	// Fetch ends with its context. It may return a text and an error: what there was of it.
	Fetch func(ctx context.Context) ([]byte, error)
}

// leastCut is the least that the ends of a text are worth.
const leastCut = 1024

// Limits bound an archive.
type Limits struct {
	Total int64 // bytes of all texts
	Piece int64 // of each
	// Each is how long a text may take; AtOnce how many are fetched at a time.
	Each   time.Duration
	AtOnce int
}

// Archive is an archive that is being written.
type Archive struct {
	limits Limits
	at     time.Time
	folder string

	mu      sync.Mutex
	gz      *gzip.Writer
	tar     *tar.Writer
	left    int64
	missing []string
	written int
	err     error // of writing
}

// New begins an archive. All of it is in one folder.
func New(w io.Writer, folder string, at time.Time, l Limits) *Archive {
	gz := gzip.NewWriter(w)
	return &Archive{limits: l, at: at, folder: folder, gz: gz, tar: tar.NewWriter(gz), left: l.Total}
}

// Add fetches pieces and writes them. said is told after each one, of how many are done.
func (b *Archive) Add(ctx context.Context, pieces []Piece, said func(done, all int)) {
	var wait sync.WaitGroup
	var mu sync.Mutex
	done := 0
	places := make(chan struct{}, b.limits.AtOnce)
	for _, p := range pieces {
		places <- struct{}{}
		var skip error
		if ctx.Err() != nil {
			skip = errors.New("it was ended before")
		} else if b.full() {
			skip = fmt.Errorf("the archive has all of the %d bytes it may have: --max-size", b.limits.Total)
		}
		if skip != nil {
			<-places
			b.Miss(p.Name, skip)
			continue
		}
		wait.Go(func() {
			defer func() { <-places }()
			one, cancel := context.WithTimeout(ctx, b.limits.Each)
			defer cancel()
			data, err := p.Fetch(one)
			if err != nil {
				b.Miss(p.Name, err)
			}
			if len(data) > 0 || err == nil {
				b.write(p.Name, data)
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			said(done, len(pieces))
		})
	}
	wait.Wait()
}

// Miss notes that something is not in the archive, or not whole.
func (b *Archive) Miss(name string, why error) {
	text := strings.ReplaceAll(words(why.Error()), "\n", " ")
	b.mu.Lock()
	defer b.mu.Unlock()
	b.missing = append(b.missing, name+": "+text)
}

// full reports whether nothing more fits: what would be left of a text says nothing.
func (b *Archive) full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.left <= min(b.limits.Piece, leastCut)
}

// write redacts first: half a document cannot be gone through.
func (b *Archive) write(name string, data []byte) {
	data = Redact(name, data)
	b.mu.Lock()
	defer b.mu.Unlock()
	most := min(b.limits.Piece, max(b.left, 0))
	if int64(len(data)) > most {
		b.missing = append(b.missing, fmt.Sprintf("%s: only its first and last parts: it has %d bytes", name, len(data)))
		data = ends(data, int(most))
	}
	b.left -= int64(len(data))
	b.put(name, data)
}

func (b *Archive) put(name string, data []byte) {
	if b.err != nil {
		return
	}
	b.err = b.tar.WriteHeader(&tar.Header{Name: path.Join(b.folder, name), Mode: 0o600, Size: int64(len(data)), ModTime: b.at})
	if b.err == nil {
		_, b.err = b.tar.Write(data)
	}
	b.written++
}

// ends are the first fifth and the last four of a text: what is newest is at the end of logs.
func ends(data []byte, most int) []byte {
	cut := []byte("\n… cut here …\n")
	most = max(0, most-len(cut))
	return slices.Concat(data[:most/5], cut, data[len(data)-(most-most/5):])
}

// Close writes what is missing, and ends the archive. missing is how much is not there, written how many texts are.
func (b *Archive) Close() (written int, missing []string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	slices.Sort(b.missing)
	var t bytes.Buffer
	fmt.Fprintf(&t, "%d texts, of %s. Values of Secrets, keys, tokens and passwords, of environment variables that are not\nthe mesh's, and of queries in logs are replaced by %s.\n", b.written, b.at.UTC().Format(time.RFC3339), gone)
	if len(b.missing) > 0 {
		fmt.Fprintf(&t, "\nNot there, or not whole:\n\n%s\n", strings.Join(b.missing, "\n"))
	}
	written = b.written
	b.put("README.txt", t.Bytes())
	return written, b.missing, errors.Join(b.err, b.tar.Close(), b.gz.Close())
}

// OfNamespaces are the documents of YAML whose objects are in a namespace that is wanted, or in none.
func OfNamespaces(data []byte, wanted func(namespace string) bool) []byte {
	var out []string
	for _, doc := range patterns().separator.Split(string(data), -1) {
		var o struct {
			Metadata struct {
				Namespace string `json:"namespace"`
			} `json:"metadata"`
		}
		if strings.TrimSpace(doc) == "" || yaml.Unmarshal([]byte(doc), &o) == nil && o.Metadata.Namespace != "" && !wanted(o.Metadata.Namespace) {
			continue
		}
		out = append(out, strings.TrimLeft(doc, "\n"))
	}
	return []byte(strings.Join(out, "---\n"))
}
