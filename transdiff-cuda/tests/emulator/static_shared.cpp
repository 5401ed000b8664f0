#include "static_shared.h"

#include <link.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "simt.h"

namespace simt {

namespace {

struct Search {
    uintptr_t inside;                   // an address within this library
    unsigned char *begin, *end;
};

// The part of the library's thread-local storage that has no initial values.
int visit(dl_phdr_info* info, size_t, void* data) {
    Search& search = *static_cast<Search*>(data);
    bool here = false;
    const ElfW(Phdr)* storage = nullptr;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const ElfW(Phdr)& header = info->dlpi_phdr[i];
        const uintptr_t start = info->dlpi_addr + header.p_vaddr;
        if (header.p_type == PT_LOAD && search.inside >= start && search.inside - start < header.p_memsz) here = true;
        if (header.p_type == PT_TLS) storage = &header;
    }
    if (!here) return 0;
    unsigned char* base = static_cast<unsigned char*>(info->dlpi_tls_data);
    if (storage == nullptr || base == nullptr) std::abort();
    search.begin = base + storage->p_filesz;
    search.end = base + storage->p_memsz;
    return 1;
}

}  // namespace

void static_shared(unsigned char*& begin, unsigned char*& end) {
    asm volatile("" : : "r"(self));     // thread-local storage is allocated on first access
    Search search{reinterpret_cast<uintptr_t>(&visit), nullptr, nullptr};
    if (dl_iterate_phdr(visit, &search) == 0) std::abort();
    begin = search.begin;
    end = search.end;
}

}  // namespace simt
