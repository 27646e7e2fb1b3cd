package bookinfo

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed assets
var assets embed.FS

// templates are parsed once; executing them is safe concurrently.
var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"asset":    assetURL,
	"initials": initials,
	"ms":       func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) },
	"upto":     func(n int) []struct{} { return make([]struct{}, max(n, 0)) },
}).ParseFS(assets, "assets/*.html"))

// contentSecurity allows what the pages use: their own style sheet and images.
const contentSecurity = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'"

// view is what the product page shows.
type view struct {
	User    string
	Pod     string
	Product product
	Details *details // nil: unavailable, and Sorry.Details is shown
	Reviews *shown   // nil: unavailable, and Sorry.Reviews is shown
	Sorry   struct{ Details, Reviews string }
	Calls   struct{ Details, Reviews call }
}

// shown are the reviews and what they reveal of how they came about.
type shown struct {
	Pod, Cluster, Version string
	Reviews               []shownReview
	Ratings               string // "stars", "unavailable" or "not asked"
	Stars                 string // colour of the stars, if there are any
}

type shownReview struct {
	Reviewer, Text string
	Rated          bool
	Stars, Missing int // Stars + Missing = 5
	Color          string
	Error          string
}

func show(in reviews) *shown {
	out := &shown{Pod: in.Pod, Version: in.Version, Ratings: "not asked"}
	if in.Cluster != "null" {
		out.Cluster = in.Cluster
	}
	for _, r := range in.Reviews {
		s := shownReview{Reviewer: r.Reviewer, Text: r.Text}
		switch {
		case r.Rating == nil:
		case r.Rating.Stars != nil:
			s.Rated, s.Color = true, r.Rating.Color
			s.Stars = min(max(*r.Rating.Stars, 0), 5)
			s.Missing = 5 - s.Stars
			out.Ratings, out.Stars = "stars", s.Color
		default:
			s.Error = r.Rating.Error
			out.Ratings = "unavailable"
		}
		out.Reviews = append(out.Reviews, s)
	}
	return out
}

// page answers 200 whatever the back ends do; the sections say what is missing.
func (p *productpage) page(w http.ResponseWriter, r *http.Request) {
	book := theBook()
	v := view{User: signedIn(r), Pod: p.Pod, Product: book}
	v.Sorry.Details, v.Sorry.Reviews = noDetails, noReviews

	v.Calls.Details = p.details(r, book.ID)
	if d := new(details); v.Calls.Details.OK() && unmarshal(v.Calls.Details.Body, d) {
		v.Details = d
	}
	for range p.Flood {
		p.reviews(r, book.ID)
	}
	v.Calls.Reviews = p.reviews(r, book.ID)
	if in := new(reviews); v.Calls.Reviews.OK() && unmarshal(v.Calls.Reviews.Body, in) {
		v.Reviews = show(*in)
	}
	render(w, "productpage.html", v)
}

func unmarshal(body []byte, into any) bool {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // the year of details v1 is printed as it came
	return d.Decode(into) == nil
}

func (p *productpage) index(w http.ResponseWriter, r *http.Request) {
	render(w, "index.html", struct{ User, Pod string }{signedIn(r), p.Pod})
}

func render(w http.ResponseWriter, name string, data any) {
	var page bytes.Buffer
	if err := templates.ExecuteTemplate(&page, name, data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(page.Len()))
	h.Set("Content-Security-Policy", contentSecurity)
	h.Set("Cache-Control", "no-store") // the next view may take another route
	w.Write(page.Bytes())
}

// initials of a name, for its badge: "Reviewer1" → "R1", "jason" → "J".
func initials(name string) string {
	first, last := "", ""
	for _, r := range name {
		if first == "" {
			first = strings.ToUpper(string(r))
		} else if r >= '0' && r <= '9' {
			last = string(r)
		}
	}
	return first + last
}

// assetTags holds a hash of each static file's content.
var assetTags = func() map[string]string {
	tags := map[string]string{}
	files, err := fs.Glob(assets, "assets/static/*")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for _, file := range files {
		data, err := fs.ReadFile(assets, file)
		if err != nil {
			panic(err) // the binary is damaged
		}
		sum := sha256.Sum256(data)
		tags[path.Base(file)] = hex.EncodeToString(sum[:6])
	}
	return tags
}()

// assetURL names a static file so that its content can be cached for ever.
func assetURL(file string) string {
	return "static/" + file + "?" + assetTags[file]
}

func static(w http.ResponseWriter, r *http.Request) {
	file := r.PathValue("file")
	tag, ok := assetTags[file]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.URL.RawQuery == tag {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.Header().Set("ETag", `"`+tag+`"`)
	http.ServeFileFS(w, r, assets, "assets/static/"+file)
}
