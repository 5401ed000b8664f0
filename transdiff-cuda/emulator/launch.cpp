#include "launch.h"

#include "block.h"

namespace simt {

bool run(const Launch& launch, std::string& error) {
    Block& executor = Block::mine();
    executor.begin(launch);
    const Index grid = launch.grid;
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                if (!executor.run({x, y, z}, error)) return false;
            }
        }
    }
    return true;
}

}  // namespace simt
